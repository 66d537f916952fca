// Calls on sessions that wait for memory, on the real engine, and how they end.
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include <absl/time/clock.h>

#include "tests/support/session_asker.h"

namespace ringserve {
namespace {

// A server whose memory holds one session of a block beside a stream that nobody reads.
class FullServer {
 public:
  FullServer() {
    EngineConfig config = ConfigWithSessions();
    config.rings.overflow = OverflowPolicy::kSlide;
    config.scheduler.max_batch = 2;
    const absl::StatusOr<MemoryPlan> plan = Engine::Plan(config);
    REQUIRE(plan.ok());
    config.memory.device_bytes = (plan->blocks_per_session + 1) * plan->kv.block_bytes();
    server_.ServeReal(config);
    sessions_ = v1::Sessions::NewStub(server_.channel());
    id_ = Asker(server_).Create().id();
    REQUIRE(Generate(server_.channel(), TurnRequest(id_, kFirst, 2)).status.ok());
    REQUIRE(Asker(server_).Export(id_, snapshot_).ok());
    inference_ = v1::Inference::NewStub(server_.channel());
    runs_ = inference_->Generate(&runs_context_, IdsRequest(kSecond, 1'000'000));
    v1::GenerateEvent event;
    REQUIRE(runs_->Read(&event));  // accepted
  }

  ~FullServer() {
    runs_context_.TryCancel();
    runs_->Finish();
  }

  FullServer(const FullServer&) = delete;
  FullServer& operator=(const FullServer&) = delete;

  grpc::Status Fork(grpc::ClientContext& context) {
    v1::ForkSessionRequest request;
    request.set_id(id_);
    v1::Session out;
    return sessions_->Fork(&context, request, &out);
  }

  grpc::Status Import(grpc::ClientContext& context) {
    v1::Session out;
    const auto writer = sessions_->Import(&context, &out);
    v1::ImportSessionRequest request;
    request.set_data(snapshot_);
    writer->Write(request);
    writer->WritesDone();
    return writer->Finish();
  }

  void AwaitWaiting(int64_t count) {
    const auto control = v1::Control::NewStub(server_.channel());
    v1::GetLoadResponse load;
    do {
      grpc::ClientContext context;
      REQUIRE(control->GetLoad(&context, {}, &load).ok());
    } while (load.models(0).waiting_calls() != count);
  }

  size_t num_sessions() { return Asker(server_).List().size(); }

  void EndStream() { runs_context_.TryCancel(); }

 private:
  TestServer server_;
  std::string id_;
  std::string snapshot_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  grpc::ClientContext runs_context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> runs_;
};

using Method = grpc::Status (FullServer::*)(grpc::ClientContext&);

TEST_CASE("a call that waits for memory ends with its deadline, with its client, or well") {
  FullServer server;
  const Method call = GENERATE(&FullServer::Fork, &FullServer::Import);
  {
    grpc::ClientContext late;
    late.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(100)));
    CHECK((server.*call)(late).error_code() == grpc::StatusCode::DEADLINE_EXCEEDED);
    server.AwaitWaiting(0);
  }
  grpc::Status status;
  {
    grpc::ClientContext context;
    std::thread client([&] { status = (server.*call)(context); });
    server.AwaitWaiting(1);
    context.TryCancel();
    client.join();
    CHECK(status.error_code() == grpc::StatusCode::CANCELLED);
    server.AwaitWaiting(0);
    CHECK(server.num_sessions() == 1);
  }
  grpc::ClientContext context;
  std::thread client([&] { status = (server.*call)(context); });
  server.AwaitWaiting(1);
  server.EndStream();
  client.join();
  INFO(status.error_message());
  CHECK(status.ok());
  CHECK(server.num_sessions() == 2);
}

}  // namespace
}  // namespace ringserve
