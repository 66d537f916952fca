#include "tests/bench/bench_streams.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <absl/time/clock.h>
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include "ringserve/v1/inference.grpc.pb.h"
#include "server/grpc_server.h"
#include "server/served_model.h"
#include "server/stream_pump.h"

namespace ringserve {
namespace {

using Clock = std::chrono::steady_clock;

// What the child tells the parent.
struct ClientReport {
  int64_t num_tokens = 0;
  double seconds = 0;  // from the first token of any stream to the last
  double gap_p50_ms = 0;
  double gap_p99_ms = 0;
  double gap_max_ms = 0;
  int32_t num_failed = 0;
};

struct ClientStream {
  grpc::ClientContext context;
  v1::GenerateEvent event;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateEvent>> reader;
  grpc::Status status;
  Clock::time_point last_token;
  bool has_token = false;
  bool is_finishing = false;
};

double Quantile(std::vector<double>& values, double q) {
  if (values.empty()) {
    return 0;
  }
  const auto at = static_cast<size_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(at), values.end());
  return values[at];
}

// All streams on one connection, read by one thread.
ClientReport ReadStreams(const std::string& target, const StreamsBenchOptions& options) {
  const auto stub =
      v1::Inference::NewStub(grpc::CreateChannel(target, grpc::InsecureChannelCredentials()));
  grpc::CompletionQueue queue;
  std::vector<ClientStream> streams(static_cast<size_t>(options.num_streams));
  for (size_t i = 0; i < streams.size(); ++i) {
    v1::GenerateRequest request;
    request.set_text(fmt::format("Once upon a time there were {} brothers who", i + 2));
    request.mutable_stopping()->set_max_tokens(options.num_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    request.mutable_sampling()->set_seed(i);
    streams[i].reader = stub->AsyncGenerate(&streams[i].context, request, &queue, &streams[i]);
  }
  ClientReport report;
  std::vector<double> gaps;
  gaps.reserve(static_cast<size_t>(options.num_streams) * static_cast<size_t>(options.num_tokens));
  Clock::time_point first;
  Clock::time_point last;
  int32_t open = options.num_streams;
  void* tag = nullptr;
  bool ok = false;
  while (open > 0 && queue.Next(&tag, &ok)) {
    auto& stream = *static_cast<ClientStream*>(tag);
    if (stream.is_finishing) {
      report.num_failed += stream.status.ok() ? 0 : 1;
      --open;
      continue;
    }
    if (!ok) {
      stream.is_finishing = true;
      stream.reader->Finish(&stream.status, &stream);
      continue;
    }
    if (stream.event.has_delta()) {
      const auto now = Clock::now();
      if (report.num_tokens == 0) {
        first = now;
      }
      last = now;
      report.num_tokens += stream.event.delta().token_ids_size();
      if (stream.has_token) {
        gaps.push_back(std::chrono::duration<double, std::milli>(now - stream.last_token).count());
      }
      stream.last_token = now;
      stream.has_token = true;
    }
    stream.event.Clear();
    stream.reader->Read(&stream.event, &stream);
  }
  report.seconds = std::chrono::duration<double>(last - first).count();
  report.gap_p50_ms = Quantile(gaps, 0.5);
  report.gap_p99_ms = Quantile(gaps, 0.99);
  report.gap_max_ms = Quantile(gaps, 1.0);
  return report;
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Pipe {
  int read_end = -1;
  int write_end = -1;
};

absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (pipe(ends) != 0) {
    return absl::InternalError("pipe failed");
  }
  return Pipe{ends[0], ends[1]};
}

template <typename T>
bool WriteWhole(int fd, const T& value) {
  return write(fd, &value, sizeof(value)) == static_cast<ssize_t>(sizeof(value));
}

template <typename T>
bool ReadWhole(int fd, T& value) {
  return read(fd, &value, sizeof(value)) == static_cast<ssize_t>(sizeof(value));
}

// The child: waits for the port, reads the streams, reports, and leaves without destructors of what
// it shares with the parent.
[[noreturn]] void RunClient(const StreamsBenchOptions& options, int from_parent, int to_parent) {
  char target[64] = {};
  if (ReadWhole(from_parent, target)) {
    const ClientReport report = ReadStreams(target, options);
    WriteWhole(to_parent, report);
  }
  _exit(0);
}

absl::Status ServeAndReport(const StreamsBenchOptions& options, int to_child, int from_child) {
  StreamPump pump;
  ModelSet models;
  ASSIGN_OR_RETURN(const auto server, GrpcServer::Start({.listen = {"127.0.0.1:0"}}, models, pump));
  ASSIGN_OR_RETURN(auto model, LoadServedModel(options.config, pump, nullptr, nullptr));
  const std::string device = model->device;
  std::vector<std::unique_ptr<ServedModel>> list;
  list.push_back(std::move(model));
  models.Publish(std::move(list));
  server->SetServing(true);

  char target[64] = {};
  std::snprintf(target, sizeof(target), "%s", server->sockets().front().address.c_str());
  const EngineLoad before = models.models().front()->engine->load();
  const double cpu_before = CpuSeconds();
  ClientReport report;
  if (!WriteWhole(to_child, target) || !ReadWhole(from_child, report)) {
    return absl::InternalError("the client process died");
  }
  const double cpu = CpuSeconds() - cpu_before;
  const EngineLoad after = models.models().front()->engine->load();
  if (report.num_failed > 0) {
    return absl::InternalError(fmt::format("{} streams failed", report.num_failed));
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
  ASSIGN_OR_RETURN(const Pipe down, MakePipe());
  ASSIGN_OR_RETURN(const Pipe up, MakePipe());
  std::fflush(stdout);
  const pid_t child = fork();
  if (child < 0) {
    return absl::InternalError("fork failed");
  }
  if (child == 0) {
    close(down.write_end);
    close(up.read_end);
    RunClient(options, down.read_end, up.write_end);
  }
  close(down.read_end);
  close(up.write_end);
  const absl::Status status = ServeAndReport(options, down.write_end, up.read_end);
  close(down.write_end);
  waitpid(child, nullptr, 0);
  return status;
}

}  // namespace ringserve
