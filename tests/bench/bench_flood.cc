#include "tests/bench/bench_flood.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/time/clock.h>
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include "ringserve/v1/inference.grpc.pb.h"
#include "server/grpc_server.h"
#include "server/served_model.h"
#include "server/stream_pump.h"
#include "tests/bench/stream_client.h"

namespace ringserve {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int32_t kMaxQueue = 256;
constexpr int32_t kMaxBatch = 16;
constexpr int32_t kNumCalls = 1000;
constexpr int32_t kFillTokens = 900;
constexpr int32_t kFloodTokens = 100;

// Of calls that were refused: milliseconds from the call's start to its end. Plain bytes.
struct FloodReport {
  int32_t num_ok = 0;
  int32_t num_refused = 0;
  int32_t num_failed = 0;  // in another way
  double p50_ms = 0;
  double p99_ms = 0;
  double max_ms = 0;
};

struct Call {
  grpc::ClientContext context;
  v1::GenerateEvent event;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateEvent>> reader;
  grpc::Status status;
  Clock::time_point begun;
  double millis = 0;
  bool is_finishing = false;
};

// Calls of one connection, read by one thread.
class Caller {
 public:
  explicit Caller(const std::string& target)
      : stub_(v1::Inference::NewStub(
            grpc::CreateChannel(target, grpc::InsecureChannelCredentials()))) {}

  ~Caller() {
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  void Begin(std::vector<std::unique_ptr<Call>>& calls, int32_t count, int32_t max_tokens) {
    v1::GenerateRequest request;
    request.set_text("Once upon a time there was a king who had three sons");
    request.mutable_stopping()->set_max_tokens(max_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    for (int32_t i = 0; i < count; ++i) {
      Call& call = *calls.emplace_back(std::make_unique<Call>());
      call.begun = Clock::now();
      call.reader = stub_->AsyncGenerate(&call.context, request, &queue_, &call);
      ++num_open_;
      TakeAll();
    }
  }

  // Reads until no more calls than that are open.
  void Await(int32_t most_open) {
    void* tag = nullptr;
    bool ok = false;
    while (num_open_ > most_open && queue_.Next(&tag, &ok)) {
      Take(*static_cast<Call*>(tag), ok);
    }
  }

 private:
  // What has come, without waiting: a call's end counts from when it is there to be seen.
  void TakeAll() {
    void* tag = nullptr;
    bool ok = false;
    const auto now = std::chrono::system_clock::now();
    while (queue_.AsyncNext(&tag, &ok, now) == grpc::CompletionQueue::GOT_EVENT) {
      Take(*static_cast<Call*>(tag), ok);
    }
  }

  void Take(Call& call, bool ok) {
    if (call.is_finishing) {
      call.millis = std::chrono::duration<double, std::milli>(Clock::now() - call.begun).count();
      --num_open_;
    } else if (!ok) {
      call.is_finishing = true;
      call.reader->Finish(&call.status, &call);
    } else {
      call.event.Clear();
      call.reader->Read(&call.event, &call);
    }
  }

  std::unique_ptr<v1::Inference::Stub> stub_;
  grpc::CompletionQueue queue_;
  int32_t num_open_ = 0;
};

FloodReport ReportOf(const std::vector<std::unique_ptr<Call>>& calls) {
  FloodReport report;
  std::vector<double> millis;
  for (const auto& call : calls) {
    if (call->status.ok()) {
      ++report.num_ok;
    } else if (call->status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      ++report.num_refused;
      millis.push_back(call->millis);
    } else {
      ++report.num_failed;
    }
  }
  std::sort(millis.begin(), millis.end());
  if (!millis.empty()) {
    report.p50_ms = millis[millis.size() / 2];
    report.p99_ms = millis[millis.size() * 99 / 100];
    report.max_ms = millis.back();
  }
  return report;
}

// One after another, while the queue stays full and 16 streams run.
FloodReport RefuseInARow(const std::string& target) {
  Caller fillers(target);
  std::vector<std::unique_ptr<Call>> filling;
  fillers.Begin(filling, 2 * (kMaxQueue + kMaxBatch), kFillTokens);
  fillers.Await(kMaxQueue + kMaxBatch);  // the others found no place
  Caller prober(target);
  std::vector<std::unique_ptr<Call>> probes;
  for (int32_t i = 0; i < kNumCalls; ++i) {
    prober.Begin(probes, 1, 1);
    prober.Await(0);
  }
  for (const auto& call : filling) {
    call->context.TryCancel();
  }
  fillers.Await(0);
  return ReportOf(probes);
}

FloodReport RefuseAtOnce(const std::string& target) {
  Caller caller(target);
  std::vector<std::unique_ptr<Call>> calls;
  caller.Begin(calls, kNumCalls, kFloodTokens);
  caller.Await(0);
  return ReportOf(calls);
}

void RunClient(const ChildProcess::Link& parent) {
  std::string target;
  if (parent.ReadTarget(target)) {
    parent.Write(RefuseInARow(target)) && parent.Write(RefuseAtOnce(target));
  }
}

absl::Status Serve(const FloodBenchOptions& options, const ChildProcess::Link& client) {
  EngineConfig config = options.config;
  config.scheduler.max_batch = kMaxBatch;
  config.scheduler.max_queue = kMaxQueue;
  config.memory.device_bytes = 0;
  StreamPump pump;
  ModelSet models;
  ASSIGN_OR_RETURN(const auto server, GrpcServer::Start({.listen = {"127.0.0.1:0"}}, models, pump));
  ASSIGN_OR_RETURN(auto model, LoadServedModel(config, pump, nullptr, nullptr));
  std::vector<std::unique_ptr<ServedModel>> list;
  list.push_back(std::move(model));
  models.Publish(std::move(list));
  server->SetServing(true);
  if (!client.WriteTarget(server->sockets().front().address)) {
    return absl::InternalError("the client process died");
  }
  std::printf("refusals of %s over gRPC, max_queue %d, max_batch %d\n",
              config.model.name.c_str(),
              kMaxQueue,
              kMaxBatch);
  int32_t num_failed = 0;
  for (const char* name : {"one after another, 16 streams running", "1,000 calls at once"}) {
    FloodReport report;
    if (!client.Read(report)) {
      return absl::InternalError("the client process died");
    }
    num_failed += report.num_failed;
    std::printf(
        "  %-38s %4d refused: p50 %.2f ms, p99 %.2f ms, max %.2f ms; %d OK, %d ended otherwise\n",
        name,
        report.num_refused,
        report.p50_ms,
        report.p99_ms,
        report.max_ms,
        report.num_ok,
        report.num_failed);
  }
  server->Drain(absl::Now() + absl::Seconds(5));
  return num_failed == 0 ? absl::OkStatus()
                         : absl::InternalError(fmt::format("{} calls failed", num_failed));
}

}  // namespace

absl::Status BenchFlood(const FloodBenchOptions& options) {
  return ChildProcess::Run(
      RunClient, [&](const ChildProcess::Link& client) { return Serve(options, client); });
}

}  // namespace ringserve
