// Several completions of one prompt on one stream: whose events are whose, and how they end.
#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ringserve/v1/control.grpc.pb.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

using Ids = std::vector<int32_t>;

const Ids kPrompt = {345, 678, 901, 234, 567, 1011, 1213, 1415, 1617};

const std::vector<std::string> kStops = {"the", "a"};

EngineConfig WideConfig() {
  EngineConfig config = SmallFairytaleConfig();
  config.scheduler.max_batch = 8;
  config.scheduler.max_queue = 8;
  return config;
}

v1::GenerateRequest IdsRequest(uint64_t seed, int32_t n, int64_t max_tokens) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Assign(kPrompt.begin(), kPrompt.end());
  request.mutable_stopping()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_seed(seed);
  request.set_n(n);
  return request;
}

AcceptedEvent Accepted() {
  AcceptedEvent event;
  event.prompt_tokens = static_cast<int64_t>(kPrompt.size());
  return event;
}

FinishedEvent Finished(int64_t num_tokens) {
  FinishedEvent event;
  event.usage.completion_tokens = num_tokens;
  return event;
}

// All of the pool is free.
bool IsIdle(TestServer& server) {
  const EngineLoad load = server.models().models().front()->engine->load();
  return load.running == 0 && load.queued == 0 && load.device_blocks_free == load.device_blocks;
}

void AwaitIdle(TestServer& server) {
  while (!IsIdle(server)) {
    std::this_thread::yield();
  }
}

TEST_CASE("completion i is what the seed and i make alone") {
  TestServer server;
  server.ServeReal(WideConfig());
  for (const int64_t max_tokens : {1, 40}) {
    for (const bool stops : {false, true}) {
      v1::GenerateRequest request = IdsRequest(7, 5, max_tokens);
      if (stops) {
        for (const std::string& text : kStops) {
          request.mutable_stopping()->add_stop_strings(text);
        }
      }
      const Stream all = Generate(server.channel(), request);
      INFO(all.status.error_message());
      REQUIRE(all.status.ok());
      for (int32_t index = 0; index < 5; ++index) {
        v1::GenerateRequest one = request;
        one.set_n(1);
        one.mutable_sampling()->set_seed(7 + static_cast<uint64_t>(index));
        const Stream alone = Generate(server.channel(), one);
        REQUIRE(alone.status.ok());
        CHECK(all.token_ids(index) == alone.token_ids());
        CHECK(all.text(index) == alone.text());
        const v1::Finished got = all.finished(index);
        CHECK(got.replay_digest() == alone.finished().replay_digest());
        CHECK(got.reason() == alone.finished().reason());
        CHECK(got.stop_index() == alone.finished().stop_index());
        CHECK(got.usage().prompt_tokens() == static_cast<int64_t>(kPrompt.size()));
        CHECK(got.usage().cached_tokens() ==
              (index == 0 ? 0 : static_cast<int64_t>(kPrompt.size()) - 1));
        CHECK(got.usage().reprefilled_tokens() == 0);
      }
    }
  }
  CHECK(IsIdle(server));
}

TEST_CASE("an echo is told once, and seeds wrap around") {
  TestServer server;
  server.ServeReal(WideConfig());
  v1::GenerateRequest request = IdsRequest(UINT64_MAX, 2, 6);
  request.mutable_output()->set_echo(true);
  const Stream both = Generate(server.channel(), request);
  REQUIRE(both.status.ok());
  size_t num_told = 0;
  for (const v1::GenerateEvent& event : both.events) {
    CHECK((!event.has_prompt() || event.index() == 0));
    num_told += static_cast<size_t>(event.prompt().tokens_size());
  }
  CHECK(num_told == kPrompt.size());
  CHECK(both.token_ids(1) == Generate(server.channel(), IdsRequest(0, 1, 6)).token_ids());
}

TEST_CASE("what cannot be several is refused by name") {
  TestServer server;
  server.ServeReal();  // two in the batch, two in the queue
  const auto refusal = [&](int32_t n, bool with_session) {
    v1::GenerateRequest request = IdsRequest(1, n, 4);
    if (with_session) {
      request.mutable_session()->set_id(kStops[0]);
    }
    const grpc::Status status = Generate(server.channel(), request).status;
    CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    return status.error_message();
  };
  CHECK(refusal(0, false) == "n: 0 is not in [1, 64]");
  CHECK(refusal(65, false) == "n: 65 is not in [1, 64]");
  CHECK(refusal(2, true) == "n: 2, but a session's turn has one completion; fork the session");
  CHECK(refusal(5, false).substr(0, 39) == "n: 5 completions are more than 4, what ");
  CHECK(Generate(server.channel(), IdsRequest(1, 4, 4)).status.ok());
}

TEST_CASE("a client that leaves ends all of its completions") {
  TestServer server;
  server.ServeReal(WideConfig());
  const auto stub = v1::Inference::NewStub(server.channel());
  for (int num_read = 0; num_read < 12; ++num_read) {
    grpc::ClientContext context;
    v1::GenerateRequest request = IdsRequest(3, 4, 200);
    request.mutable_stopping()->set_ignore_eos(true);
    const auto reader = stub->Generate(&context, request);
    v1::GenerateEvent event;
    for (int i = 0; i < num_read; ++i) {
      REQUIRE(reader->Read(&event));
    }
    context.TryCancel();
    while (reader->Read(&event)) {
    }
    CHECK(reader->Finish().error_code() == grpc::StatusCode::CANCELLED);
    AwaitIdle(server);
  }
}

TEST_CASE("if one completion fails the others are cancelled, and the request fails") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, IdsRequest(1, 3, 50));
  const uint64_t first = engine.AwaitRequest();
  engine.Say(first, Accepted());
  engine.Say(first + 1, Accepted());
  engine.SayToken(first, 0, 300);
  engine.Say(first, Finished(1));
  engine.SayToken(first + 1, 0, 301);
  engine.SayFailed(first + 1, absl::InternalError("no token can be chosen"));
  engine.AwaitCancel(first + 2);
  engine.Say(first + 2, Accepted());  // it was on its way
  engine.SayFailed(first + 2, absl::CancelledError("cancelled"));
  const auto told = [&] {
    std::vector<int32_t> indices;
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
      CHECK(event.sequence() == indices.size());
      indices.push_back(event.index());
    }
    return indices;
  }();
  CHECK(std::count(told.begin(), told.end(), 2) == 0);
  CHECK(std::count(told.begin(), told.end(), 0) == 3);
  const grpc::Status status = reader->Finish();
  CHECK(status.error_code() == grpc::StatusCode::INTERNAL);
  CHECK(status.error_message() == "no token can be chosen");

  const auto control = v1::Control::NewStub(server.channel());
  grpc::ClientContext usage_context;
  v1::GetUsageResponse usage;
  REQUIRE(control->GetUsage(&usage_context, {}, &usage).ok());
  CHECK(usage.finished_requests() == 0);
  CHECK(usage.failed_requests() == 1);
  CHECK(usage.completion_tokens() == 1);
}

TEST_CASE("a reader that lags pauses all of its completions, and hears all of each") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext context;
  v1::GenerateRequest request = IdsRequest(1, 2, 100'000);
  request.mutable_output()->set_logprobs(0);
  const auto reader = stub->Generate(&context, request);
  const uint64_t first = engine.AwaitRequest();
  engine.Say(first, Accepted());
  engine.Say(first + 1, Accepted());
  int64_t num_tokens = 0;
  while (!engine.is_paused(first)) {
    engine.SayToken(first, num_tokens, 300);
    engine.SayToken(first + 1, num_tokens, 301);
    ++num_tokens;
    if (num_tokens % 100 == 0) {
      server.AwaitPump();
    }
  }
  CHECK(engine.is_paused(first + 1));
  engine.Say(first, Finished(num_tokens));
  engine.Say(first + 1, Finished(num_tokens));
  const Stream all = ReadAll(*reader);
  REQUIRE(all.status.ok());
  CHECK(all.token_ids(0) == Ids(static_cast<size_t>(num_tokens), 300));
  CHECK(all.token_ids(1) == Ids(static_cast<size_t>(num_tokens), 301));
  // Merged by completion, although they came in turns.
  CHECK(static_cast<int64_t>(all.events.size()) < num_tokens);
}

TEST_CASE("a dropped stream of several completions is attached to again") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  const auto stub = v1::Inference::NewStub(server.channel());
  v1::GenerateRequest request = IdsRequest(1, 2, 10);
  request.set_resumable(true);
  const std::string name = "two";
  request.set_request_id(name);
  std::vector<v1::GenerateEvent> events;
  {
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, request);
    const uint64_t first = engine.AwaitRequest();
    engine.Say(first, Accepted());
    engine.Say(first + 1, Accepted());
    engine.SayToken(first + 1, 0, 301);
    v1::GenerateEvent event;
    for (int i = 0; i < 3; ++i) {
      REQUIRE(reader->Read(&event));
      events.push_back(event);
    }
    context.TryCancel();
    while (reader->Read(&event)) {
    }
    reader->Finish();
  }
  const uint64_t first = engine.AwaitRequest();
  engine.SayToken(first, 0, 300);
  engine.Say(first, Finished(1));
  engine.SayToken(first + 1, 1, 302);
  engine.Say(first + 1, Finished(2));
  grpc::ClientContext context;
  v1::AttachRequest attach;
  attach.set_request_id(name);
  const auto reader = stub->Attach(&context, attach);
  const Stream all = ReadAll(*reader);
  REQUIRE(all.status.ok());
  REQUIRE(all.events.size() >= events.size());
  for (size_t i = 0; i < events.size(); ++i) {
    CHECK(all.events[i].SerializeAsString() == events[i].SerializeAsString());
  }
  CHECK(all.token_ids(0) == Ids{300});
  CHECK(all.token_ids(1) == Ids{301, 302});
  CHECK_FALSE(engine.is_cancelled(first));
}

}  // namespace
}  // namespace ringserve
