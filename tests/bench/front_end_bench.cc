// What a token costs in the front end: paced streams, one token each per interval, from a feeder
// that plays the engine, over loopback to clients in a process of their own. Reports the CPU time
// of the serving process per token, everything in it included (feeder, pump, gRPC, kernel).
//
//   front_end_bench [--streams N] [--connections N] [--interval-ms MS] [--tokens N] [--unix]
#include <CLI/CLI.hpp>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <absl/synchronization/blocking_counter.h>
#include <absl/synchronization/mutex.h>
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include "engine/base/check.h"
#include "ringserve/v1/inference.grpc.pb.h"
#include "server/grpc_server.h"
#include "server/served_model.h"
#include "server/stream_pump.h"

namespace ringserve {
namespace {

struct BenchOptions {
  int streams = 256;
  int connections = 1;
  double interval_ms = 10;
  int tokens = 500;
  bool over_unix = false;
  std::string client_of;  // set in the client process: whom to call
};

constexpr int kWarmupSteps = 50;

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double ThreadCpuSeconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// Plays the engine: takes every request and, once all are there, gives each a token per step.
class Feeder final : public EnginePort {
 public:
  Feeder(const BenchOptions& options, EventSink& sink) : options_(options), sink_(sink) {}

  absl::Status Submit(GenerateRequest request) override {
    absl::MutexLock lock(&mutex_);
    ids_.push_back(request.request_id);
    return absl::OkStatus();
  }

  void Cancel(uint64_t /*request_id*/) override { cancelled_.fetch_add(1); }

  void SetPaused(uint64_t /*request_id*/, bool paused) override {
    pauses_.fetch_add(static_cast<int>(paused));
  }

  void Drain(absl::Time /*deadline*/) override {}

  EngineLoad load() const override { return {}; }

  RequestLimits limits() const override { return {}; }

  void Run() {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &Feeder::AllHere));
    }
    const auto begin = std::chrono::steady_clock::now();
    const std::chrono::duration<double, std::milli> interval(options_.interval_ms);
    double cpu = 0;
    double own_cpu = 0;
    for (int step = 0; step < kWarmupSteps + options_.tokens; ++step) {
      std::this_thread::sleep_until(begin + step * interval);
      if (step == kWarmupSteps) {
        cpu = CpuSeconds();
        own_cpu = ThreadCpuSeconds();
      }
      Step(step);
    }
    cpu = CpuSeconds() - cpu;
    own_cpu = ThreadCpuSeconds() - own_cpu;
    const double num_tokens = static_cast<double>(options_.tokens) * options_.streams;
    fmt::print("streams={} connections={} cpu_us_per_token={:.2f} of_it_feeder={:.2f} pauses={}\n",
               options_.streams,
               options_.connections,
               cpu / num_tokens * 1e6,
               own_cpu / num_tokens * 1e6,
               pauses_.load());
    End();
  }

 private:
  bool AllHere() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return static_cast<int>(ids_.size()) == options_.streams;
  }

  void Step(int step) {
    events_.clear();
    for (const uint64_t id : ids_) {
      SampledTokenEvent token;
      token.index = step;
      token.token.token.token_id = 300 + step % 1000;
      events_.push_back({.request_id = id, .event = std::move(token)});
    }
    sink_.Publish(events_);
  }

  void End() {
    events_.clear();
    for (const uint64_t id : ids_) {
      events_.push_back({.request_id = id, .event = FinishedEvent{}});
    }
    sink_.Publish(events_);
  }

  const BenchOptions options_;
  EventSink& sink_;
  absl::Mutex mutex_;
  std::vector<uint64_t> ids_;  // Run's alone once all are there
  std::vector<TokenEvent> events_;
  std::atomic<int> cancelled_ = 0;
  std::atomic<int> pauses_ = 0;
};

// One stream of the client process.
class Reader final : public grpc::ClientReadReactor<v1::GenerateEvent> {
 public:
  Reader(v1::Inference::Stub& stub, absl::BlockingCounter& done) : done_(done) {
    request_.mutable_token_ids()->add_ids(1);
    stub.async()->Generate(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      StartRead(&event_);
    }
  }

  void OnDone(const grpc::Status& status) override {
    RS_CHECK(status.ok());
    done_.DecrementCount();
  }

 private:
  absl::BlockingCounter& done_;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateEvent event_;
};

void RunClient(const BenchOptions& options) {
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs;
  for (int i = 0; i < options.connections; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stubs.push_back(v1::Inference::NewStub(grpc::CreateCustomChannel(
        options.client_of, grpc::InsecureChannelCredentials(), arguments)));
  }
  absl::BlockingCounter done(options.streams);
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < options.streams; ++i) {
    readers.push_back(
        std::make_unique<Reader>(*stubs[static_cast<size_t>(i % options.connections)], done));
  }
  done.Wait();
}

pid_t SpawnClient(const BenchOptions& options, const std::string& address) {
  const pid_t child = fork();
  if (child == 0) {
    const std::string streams = std::to_string(options.streams);
    const std::string connections = std::to_string(options.connections);
    execl("/proc/self/exe",
          "front_end_bench",
          "--client-of",
          address.c_str(),
          "--streams",
          streams.c_str(),
          "--connections",
          connections.c_str(),
          nullptr);
    _exit(127);
  }
  RS_CHECK(child > 0);
  return child;
}

void RunServer(const BenchOptions& options) {
  StreamPump pump;
  ModelSet models;
  auto model = std::make_unique<ServedModel>();
  model->config.model.name = "fairytale-5m";
  auto tokenizer = Tokenizer::Load(std::string(RINGSERVE_SOURCE_DIR) + "/models/fairytale-5m");
  RS_CHECK(tokenizer.ok());
  model->tokenizer = *std::move(tokenizer);
  model->shape.vocab_size = 4096;
  auto feeder = std::make_unique<Feeder>(options, pump);
  Feeder& feeding = *feeder;
  model->engine = std::move(feeder);
  std::vector<std::unique_ptr<ServedModel>> served;
  served.push_back(std::move(model));
  models.Publish(std::move(served));
  ServerOptions server_options;
  server_options.listen = {options.over_unix ? fmt::format("unix:/tmp/front_end_bench.{}", getpid())
                                             : "127.0.0.1:0"};
  auto server = GrpcServer::Start(server_options, models, pump);
  RS_CHECK(server.ok());
  const pid_t client = SpawnClient(options, (*server)->sockets().front().address);
  feeding.Run();
  int status = 0;
  RS_CHECK(waitpid(client, &status, 0) == client);
  RS_CHECK(status == 0);
}

}  // namespace
}  // namespace ringserve

// NOLINTNEXTLINE(bugprone-exception-escape): a failure may end this bench.
int main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as the program does
  ringserve::BenchOptions options;
  CLI::App app("CPU time per token of the front end");
  app.add_option("--streams", options.streams)->check(CLI::Range(1, 10000));
  app.add_option("--connections", options.connections)->check(CLI::Range(1, 10000));
  app.add_option("--interval-ms", options.interval_ms)->check(CLI::Range(0.1, 1000.0));
  app.add_option("--tokens", options.tokens)->check(CLI::Range(1, 1000000));
  app.add_flag("--unix", options.over_unix);
  app.add_option("--client-of", options.client_of)->group("");
  CLI11_PARSE(app, argc, argv);
  if (options.client_of.empty()) {
    ringserve::RunServer(options);
  } else {
    ringserve::RunClient(options);
  }
  return 0;
}
