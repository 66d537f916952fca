#include "tests/bench/bench_load.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <absl/time/clock.h>
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include "kernels/types.h"
#include "ringserve/v1/inference.grpc.pb.h"
#include "ringserve/v1/sessions.grpc.pb.h"
#include "server/grpc_server.h"
#include "server/served_model.h"
#include "server/stream_pump.h"
#include "tests/bench/stream_client.h"

namespace ringserve {
namespace {

constexpr int kNumThreads = 16;  // of the client, making and closing sessions
constexpr int kNumCycles = 2;    // the first touches memory for the first time
constexpr int kMostTries = 1000;

enum class Phase : int32_t { kSessions, kStreams, kClosed };

struct PhaseReport {
  Phase phase = Phase::kSessions;
  int64_t num_refused = 0;  // RESOURCE_EXHAUSTED, tried again
  int64_t num_failed = 0;
  StreamsReport streams;
};

// The sessions, from the client's side.
class SessionMaker {
 public:
  SessionMaker(const std::string& target, int32_t num_sessions)
      : ids_(static_cast<size_t>(num_sessions)) {
    const auto channel = grpc::CreateChannel(target, grpc::InsecureChannelCredentials());
    sessions_ = v1::Sessions::NewStub(channel);
    inference_ = v1::Inference::NewStub(channel);
  }

  PhaseReport MakeAll() {
    return ForAll(Phase::kSessions, [&](size_t i) {
      v1::Session session;
      const grpc::Status created = Try([&] {
        grpc::ClientContext context;
        return sessions_->Create(&context, {}, &session);
      });
      ids_[i] = session.id();
      return created.ok() ? Try([&] { return TakeTurn(i); }) : created;
    });
  }

  PhaseReport CloseAll() {
    return ForAll(Phase::kClosed, [&](size_t i) {
      return Try([&] {
        grpc::ClientContext context;
        v1::CloseSessionRequest request;
        request.set_id(ids_[i]);
        v1::Session session;
        return sessions_->Close(&context, request, &session);
      });
    });
  }

 private:
  grpc::Status TakeTurn(size_t i) {
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.set_text(fmt::format("There were {} brothers", i));
    request.mutable_session()->set_id(ids_[i]);
    request.mutable_stopping()->set_max_tokens(2);
    const auto reader = inference_->Generate(&context, request);
    for (v1::GenerateEvent event; reader->Read(&event);) {
    }
    return reader->Finish();
  }

  // Again while the server says that it is full.
  template <typename Call>
  grpc::Status Try(const Call& call) {
    grpc::Status status;
    for (int i = 0; i < kMostTries; ++i) {
      status = call();
      if (status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED) {
        break;
      }
      ++num_refused_;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return status;
  }

  PhaseReport ForAll(Phase phase, const std::function<grpc::Status(size_t)>& work) {
    std::atomic<size_t> next = 0;
    std::atomic<int64_t> num_failed = 0;
    num_refused_ = 0;
    std::vector<std::thread> threads;
    threads.reserve(kNumThreads);
    for (int t = 0; t < kNumThreads; ++t) {
      threads.emplace_back([&] {
        for (size_t i = next++; i < ids_.size(); i = next++) {
          if (const grpc::Status status = work(i); !status.ok()) {
            if (num_failed++ == 0) {
              std::fprintf(stderr, "session %zu: %s\n", i, status.error_message().c_str());
            }
          }
        }
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    return {.phase = phase, .num_refused = num_refused_, .num_failed = num_failed, .streams = {}};
  }

  std::vector<std::string> ids_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::atomic<int64_t> num_refused_ = 0;
};

void RunClient(const LoadBenchOptions& options, const ChildProcess::Link& parent) {
  std::string target;
  if (!parent.ReadTarget(target)) {
    return;
  }
  SessionMaker maker(target, options.num_sessions);
  // After each report the parent looks at the server, then says to go on.
  const auto report = [&](const PhaseReport& phase) {
    char go = 0;
    return parent.Write(phase) && parent.Read(go);
  };
  for (int cycle = 0; cycle < kNumCycles; ++cycle) {
    if (!report(maker.MakeAll()) ||
        !report({.phase = Phase::kStreams,
                 .streams = ReadStreams(target, options.num_streams, options.num_tokens)}) ||
        !report(maker.CloseAll())) {
      return;
    }
  }
}

double ResidentMib() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0;
  int64_t resident = 0;
  file >> size >> resident;
  return static_cast<double>(resident * sysconf(_SC_PAGESIZE)) / (1 << 20);
}

// A host pool for all that idles, a device pool for all that runs.
EngineConfig LoadConfig(const LoadBenchOptions& options, int64_t block_bytes) {
  EngineConfig config = options.config;
  const int64_t stream_blocks = CeilDiv<int64_t>(options.num_tokens + 32, config.rings.block_size);
  config.scheduler.max_batch = options.num_streams;
  config.scheduler.max_queue = std::max(config.scheduler.max_queue, options.num_streams);
  config.memory.device_bytes = (options.num_streams * (stream_blocks + 1) + 256) * block_bytes;
  config.memory.pinned_bytes = (int64_t{options.num_sessions} + 256) * block_bytes;
  config.sessions.max_sessions = options.num_sessions;
  return config;
}

absl::Status Serve(const LoadBenchOptions& options, const ChildProcess::Link& client) {
  ASSIGN_OR_RETURN(const MemoryPlan plan, Engine::Plan(options.config));
  StreamPump pump;
  ModelSet models;
  ASSIGN_OR_RETURN(const auto server, GrpcServer::Start({.listen = {"127.0.0.1:0"}}, models, pump));
  ASSIGN_OR_RETURN(
      auto model,
      LoadServedModel(LoadConfig(options, plan.kv.block_bytes()), pump, nullptr, nullptr));
  std::vector<std::unique_ptr<ServedModel>> list;
  list.push_back(std::move(model));
  models.Publish(std::move(list));
  server->SetServing(true);
  const EnginePort& engine = *models.models().front()->engine;
  const EngineLoad idle = engine.load();
  std::printf("%d idle sessions and %d streams of %s over gRPC, %d tokens each\n",
              options.num_sessions,
              options.num_streams,
              options.config.model.name.c_str(),
              options.num_tokens);
  if (!client.WriteTarget(server->sockets().front().address)) {
    return absl::InternalError("the client process died");
  }
  int64_t num_failed = 0;
  double resident = 0;
  for (int report = 0; report < 3 * kNumCycles; ++report) {
    PhaseReport phase;
    if (!client.Read(phase)) {
      return absl::InternalError("the client process died");
    }
    const EngineLoad load = engine.load();
    num_failed += phase.num_failed + phase.streams.num_failed;
    const double now = ResidentMib();
    if (phase.phase == Phase::kStreams) {
      const StreamsReport& streams = phase.streams;
      std::printf(
          "  streams: %.0f tokens/s; gap p50 %.1f ms, p99 %.1f ms, max %.1f ms; %d refused, %d "
          "failed\n",
          static_cast<double>(streams.num_tokens) / streams.seconds,
          streams.gap_p50_ms,
          streams.gap_p99_ms,
          streams.gap_max_ms,
          streams.num_refused,
          streams.num_failed);
    } else {
      std::printf(
          "  %s: %ld sessions, %ld refused and tried again, %ld failed; %ld + %ld blocks free, %ld "
          "spilled; %.1f MiB resident\n",
          phase.phase == Phase::kSessions ? "made" : "closed",
          static_cast<long>(load.sessions),
          static_cast<long>(phase.num_refused),
          static_cast<long>(phase.num_failed),
          static_cast<long>(load.device_blocks_free),
          static_cast<long>(load.host_blocks_free),
          static_cast<long>(load.spilled_blocks),
          now);
    }
    if (phase.phase == Phase::kClosed) {
      if (resident > 0) {
        std::printf("  resident after the second time / the first: %.4f\n", now / resident);
      }
      resident = now;
      if (load.device_blocks_free != idle.device_blocks_free ||
          load.host_blocks_free != idle.host_blocks_free) {
        return absl::InternalError("blocks were lost");
      }
    }
    std::fflush(stdout);
    client.Write('g');
  }
  server->Drain(absl::Now() + absl::Seconds(5));
  return num_failed == 0 ? absl::OkStatus()
                         : absl::InternalError(fmt::format("{} calls failed", num_failed));
}

}  // namespace

absl::Status BenchLoad(const LoadBenchOptions& options) {
  return ChildProcess::Run(
      [&](const ChildProcess::Link& parent) { RunClient(options, parent); },
      [&](const ChildProcess::Link& client) { return Serve(options, client); });
}

}  // namespace ringserve
