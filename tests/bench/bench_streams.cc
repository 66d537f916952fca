#include "tests/bench/bench_streams.h"

#include <cstdio>
#include <memory>
#include <string>
#include <sys/resource.h>
#include <utility>
#include <vector>

#include <absl/time/clock.h>
#include <fmt/format.h>

#include "server/grpc_server.h"
#include "server/served_model.h"
#include "server/stream_pump.h"
#include "tests/bench/stream_client.h"

namespace ringserve {
namespace {

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

absl::Status ServeAndReport(const StreamsBenchOptions& options, const ChildProcess::Link& client) {
  StreamPump pump;
  ModelSet models;
  ASSIGN_OR_RETURN(const auto server, GrpcServer::Start({.listen = {"127.0.0.1:0"}}, models, pump));
  ASSIGN_OR_RETURN(auto model, LoadServedModel(options.config, pump, nullptr, nullptr));
  const std::string device = model->device;
  std::vector<std::unique_ptr<ServedModel>> list;
  list.push_back(std::move(model));
  models.Publish(std::move(list));
  server->SetServing(true);

  const EngineLoad before = models.models().front()->engine->load();
  const double cpu_before = CpuSeconds();
  StreamsReport report;
  if (!client.WriteTarget(server->sockets().front().address) || !client.Read(report)) {
    return absl::InternalError("the client process died");
  }
  const double cpu = CpuSeconds() - cpu_before;
  const EngineLoad after = models.models().front()->engine->load();
  if (report.num_failed + report.num_refused > 0) {
    return absl::InternalError(
        fmt::format("{} streams failed", report.num_failed + report.num_refused));
  }
  const double step = absl::ToDoubleSeconds(after.step_time - before.step_time);
  const double kernels = absl::ToDoubleSeconds(after.kernel_time - before.kernel_time);
  std::printf(
      "%d streams of %s over gRPC, %d tokens each, %s\n"
      "  %.0f tokens/s; gap between tokens p50 %.2f ms, p99 %.2f ms, max %.2f ms\n"
      "  engine thread outside the kernels: %.1f %% of the time of a step, %.1f %% of all\n"
      "  server CPU per token: %.1f us\n",
      options.num_streams,
      options.config.model.name.c_str(),
      options.num_tokens,
      device.c_str(),
      static_cast<double>(report.num_tokens) / report.seconds,
      report.gap_p50_ms,
      report.gap_p99_ms,
      report.gap_max_ms,
      100 * (1 - kernels / step),
      100 * (1 - kernels / report.seconds),
      1e6 * cpu / static_cast<double>(report.num_tokens));
  server->Drain(absl::Now() + absl::Seconds(5));
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchStreams(const StreamsBenchOptions& options) {
  if (options.num_streams < 1 || options.num_streams > options.config.scheduler.max_batch) {
    return absl::InvalidArgumentError(fmt::format(
        "streams: {} is not in [1, {}]", options.num_streams, options.config.scheduler.max_batch));
  }
  return ChildProcess::Run(
      [&](const ChildProcess::Link& parent) {
        std::string target;
        if (parent.ReadTarget(target)) {
          parent.Write(ReadStreams(target, options.num_streams, options.num_tokens));
        }
      },
      [&](const ChildProcess::Link& client) { return ServeAndReport(options, client); });
}

}  // namespace ringserve
