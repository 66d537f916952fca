#include <atomic>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <absl/cleanup/cleanup.h>
#include <absl/time/clock.h>
#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "engine/engine.h"
#include "engine/memory_plan.h"
#include "server/commands.h"
#include "server/grpc_server.h"
#include "server/model_source.h"
#include "server/served_model.h"
#include "server/signals.h"
#include "server/stream_pump.h"
#include "server/watchdog.h"

namespace ringserve {
namespace {

struct ServeOptions {
  ModelSource source;
  ServerOptions server;
  double drain_seconds = 30;
  double resume_seconds = 30;
  double step_seconds = 300;
  std::string log_level = "info";
};

void StartLogging(const std::string& level) {
  auto logger = spdlog::stderr_logger_mt("server");
  logger->set_pattern("time=%Y-%m-%dT%H:%M:%S.%e%z level=%l room=%n %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

// A log line every other second of a load.
struct LoadProgress {
  std::string model;
  absl::Time told = absl::Now();

  static void Tell(double fraction, void* context) {
    auto& self = *static_cast<LoadProgress*>(context);
    if (absl::Now() - self.told > absl::Seconds(2)) {
      self.told = absl::Now();
      spdlog::info("event=loading model={} percent={:.0f}", self.model, fraction * 100);
    }
  }
};

absl::Status PrintPlans(const std::vector<EngineConfig>& configs) {
  for (const EngineConfig& config : configs) {
    ASSIGN_OR_RETURN(const MemoryPlan plan, Engine::Plan(config));
    fmt::print("config of {}:\n{}\nmemory of {}:\n{}\n",
               config.model.name,
               EngineConfigJson(config),
               config.model.name,
               FormatMemoryPlan(plan));
  }
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::unique_ptr<ServedModel>>> LoadModels(
    const std::vector<EngineConfig>& configs, StreamPump& pump) {
  std::vector<std::unique_ptr<ServedModel>> models;
  for (const EngineConfig& config : configs) {
    const absl::Time begin = absl::Now();
    spdlog::info("event=loading model={} path={}", config.model.name, config.model.path);
    LoadProgress progress{.model = config.model.name};
    ASSIGN_OR_RETURN(auto model, LoadServedModel(config, pump, &LoadProgress::Tell, &progress));
    spdlog::info("event=loaded model={} device=\"{}\" seconds={:.2f}",
                 config.model.name,
                 model->device,
                 absl::ToDoubleSeconds(absl::Now() - begin));
    models.push_back(std::move(model));
  }
  return models;
}

// The end of a process whose engine hangs: nothing that waits for the engine's thread can return.
[[noreturn]] void Leave() {
  spdlog::shutdown();
  std::fflush(nullptr);
  _exit(kExitFailure);
}

// Ends the process when an engine hangs: through `signals` as a failed device does, or, if it is
// being drained already, by itself.
std::unique_ptr<Watchdog> MakeWatchdog(const ServeOptions& options,
                                       const ModelSet& models,
                                       StopSignals& signals,
                                       const std::atomic<bool>& draining) {
  if (options.step_seconds == 0) {
    return nullptr;
  }
  return std::make_unique<Watchdog>(
      models.models(), absl::Seconds(options.step_seconds), [&](const ServedModel& model) {
        spdlog::error("event=hanging model={} step_seconds={}", model.name(), options.step_seconds);
        signals.Fail();
        if (draining) {
          absl::SleepFor(absl::Seconds(1));  // for what was just said to be sent
          Leave();
        }
      });
}

absl::Status Serve(const ServeOptions& options) {
  StopSignals signals;
  StartLogging(options.log_level);
  ASSIGN_OR_RETURN(const auto configs, LoadConfigs(options.source));
  RETURN_IF_ERROR(PrintPlans(configs));
  StreamPump pump;
  ModelSet models;
  ASSIGN_OR_RETURN(const auto server, GrpcServer::Start(options.server, models, pump));
  for (const ListeningSocket& socket : server->sockets()) {
    spdlog::info("event=listening address={}", socket.address);
  }
  ASSIGN_OR_RETURN(auto loaded, LoadModels(configs, pump));
  pump.OnInternalError([&] {
    for (const auto& model : models.models()) {
      if (!model->engine->load().healthy) {
        spdlog::error("event=failed model={}", model->name());
        signals.Fail();
        return;
      }
    }
  });
  // Before what it looks at goes.
  const absl::Cleanup unhook = [&pump] { pump.OnInternalError(nullptr); };
  models.Publish(std::move(loaded));
  std::atomic<bool> draining = false;
  const auto watchdog = MakeWatchdog(options, models, signals, draining);
  signals.Arm();
  server->SetServing(true);
  spdlog::info("event=ready models={} pid={}", configs.size(), getpid());

  const int signal = signals.Wait();
  if (signal == 0) {
    // What the device held is lost, and a new process has it again soonest.
    server->SetServing(false);
    server->Stop(absl::Now() + absl::Seconds(1));
    if (watchdog != nullptr && watchdog->has_bitten()) {
      Complain(absl::InternalError("a model's device hangs"));
      Leave();
    }
    return absl::InternalError("a model's device failed");
  }
  draining = true;
  spdlog::info("event=draining signal={} deadline_seconds={}",
               signal == SIGTERM ? "SIGTERM" : "SIGINT",
               options.drain_seconds);
  server->Drain(absl::Now() + absl::Seconds(options.drain_seconds));
  spdlog::info("event=stopped");
  return absl::OkStatus();
}

}  // namespace

void AddServeCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand("serve", "Serves models over gRPC until SIGTERM");
  auto options = std::make_shared<ServeOptions>();
  AddModelSource(*command, options->source, /*most=*/64);
  command
      ->add_option("--listen",
                   options->server.listen,
                   "HOST:PORT, [IPV6]:PORT or unix:PATH; may be repeated")
      ->type_name("ADDRESS")
      ->capture_default_str();
  command
      ->add_option("--max-connections",
                   options->server.max_connections,
                   "Connections open at once; two descriptors each")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000}))
      ->capture_default_str();
  command->add_option("--max-calls", options->server.max_calls, "Generate calls open at once")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000}))
      ->capture_default_str();
  command
      ->add_option("--max-request-bytes", options->server.max_request_bytes, "Bytes of one request")
      ->check(CLI::Range(1024, 1 << 30))
      ->capture_default_str();
  command->add_option(
      "--identity-header",
      options->server.identity_header,
      "Metadata key, in lower case, that says who calls, set by a proxy in front that "
      "lets nobody else reach this server; default: all callers are one");
  command
      ->add_option("--resume-timeout",
                   options->resume_seconds,
                   "Seconds that resumable streams are kept after they drop or end; 0: never")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  command
      ->add_option("--max-kept-streams",
                   options->server.streams.max_kept,
                   "Resumable streams at once; each may hold 0.4 MB that was not read")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000}))
      ->capture_default_str();
  command
      ->add_option("--drain-timeout",
                   options->drain_seconds,
                   "Seconds that live requests have after SIGTERM or SIGINT; a second signal ends "
                   "the process at once")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  command
      ->add_option("--step-timeout",
                   options->step_seconds,
                   "Seconds that a step of an engine may take before its device counts as hanging "
                   "and the process ends; 0: any")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  command->add_option("--log-level", options->log_level, "What is logged to stderr")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->capture_default_str();
  command->callback([options, &exit_code] {
    options->server.streams.resume_timeout = absl::Seconds(options->resume_seconds);
    const absl::Status status = Serve(*options);
    exit_code = status.ok() ? kExitOk : Complain(status);
  });
}

}  // namespace ringserve
