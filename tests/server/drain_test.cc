// Drain: what is live ends well, what comes after is refused, and it all ends by the deadline.
#include <memory>
#include <string>
#include <thread>

#include "tests/support/test_server.h"

namespace ringserve {
namespace {

TEST_CASE("a drain lets live streams end and refuses new ones") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, TextRequest("a", 100));
  const uint64_t id = engine.AwaitRequest();
  engine.Say(id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  std::thread draining([&] { server.server().Drain(absl::Now() + absl::Seconds(50)); });
  engine.AwaitDrain();
  const Stream refused = Generate(server.channel(), TextRequest("a", 1));
  CHECK(refused.status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(refused.status.error_message() == "the server is draining");
  CHECK_FALSE(refused.status.error_details().empty());
  engine.SayToken(id, 0, 300);
  FinishedEvent finished;
  finished.usage.completion_tokens = 1;
  engine.Say(id, finished);
  engine.FinishDrain();
  const Stream stream = ReadAll(*reader);
  CHECK(stream.status.ok());
  CHECK(stream.token_ids() == std::vector<int32_t>{300});
  draining.join();
}

TEST_CASE("a drain is over at its deadline, whoever still streams") {
  TestServer server;
  server.ServeReal();
  v1::GenerateRequest request = TextRequest("Once upon a time", 250);
  request.mutable_stopping()->set_ignore_eos(true);
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  v1::GenerateEvent event;
  REQUIRE(reader->Read(&event));
  server.server().Drain(absl::Now());
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  // It may just have ended; else it is told that the server goes away.
  CHECK((status.ok() || status.error_code() == grpc::StatusCode::UNAVAILABLE));
}

TEST_CASE("a server that stops leaves no call behind") {
  TestServer server;
  server.ServeReal();
  v1::GenerateRequest request = TextRequest("Once upon a time", 250);
  request.mutable_stopping()->set_ignore_eos(true);
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  v1::GenerateEvent event;
  REQUIRE(reader->Read(&event));
  server.server().Stop(absl::Now());
  while (reader->Read(&event)) {
  }
  reader->Finish();
  EnginePort& engine = *server.models().models().front()->engine;
  engine.Drain(absl::InfiniteFuture());  // returns when none is left
  CHECK(engine.load().completion_tokens < 250);
}

}  // namespace
}  // namespace ringserve
