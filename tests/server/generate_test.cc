// Generate over the wire, in-process: the embedded model where answers matter, a scripted engine
// where the order of things does.
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/client_context.h>
#include <nlohmann/json.hpp>

#include "ringserve/v1/control.grpc.pb.h"
#include "ringserve/v1/error_details.pb.h"
#include "ringserve/v1/inference.grpc.pb.h"
#include "tests/support/engine_run.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

TEST_CASE("a stream says what the engine says") {
  TestServer server;
  server.ServeReal();
  const nlohmann::json reference = FairytaleReference();
  v1::GenerateRequest request;
  const std::vector<int32_t> prompt = reference[0]["prompt_token_ids"];
  request.mutable_token_ids()->mutable_ids()->Assign(prompt.begin(), prompt.end());
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(20);
  const Stream stream = Generate(server.channel(), request);
  REQUIRE(stream.status.ok());
  const std::vector<int32_t> greedy = reference[0]["greedy_token_ids"];
  CHECK(stream.token_ids() == std::vector<int32_t>(greedy.begin(), greedy.begin() + 20));
  const v1::Accepted& accepted = stream.events.front().accepted();
  CHECK(accepted.model() == "fairytale-5m");
  CHECK(accepted.prompt_tokens() == static_cast<int64_t>(prompt.size()));
  CHECK(accepted.request_id().size() == 32);
  const v1::Finished& finished = stream.events.back().finished();
  CHECK(finished.reason() == v1::FINISH_REASON_MAX_TOKENS);
  CHECK_FALSE(finished.has_stop_index());
  CHECK(finished.usage().prompt_tokens() == static_cast<int64_t>(prompt.size()));
  CHECK(finished.usage().completion_tokens() == 20);
  CHECK(finished.usage().reprefilled_tokens() == 0);
  CHECK(finished.replay_digest() != 0);
}

TEST_CASE("equal requests get equal streams, other seeds others") {
  TestServer server;
  server.ServeReal();
  v1::GenerateRequest request = TextRequest("Once upon a time", 24);
  const Stream first = Generate(server.channel(), request);
  const Stream second = Generate(server.channel(), request);
  request.mutable_sampling()->set_seed(1);
  const Stream other = Generate(server.channel(), request);
  REQUIRE(first.status.ok());
  CHECK(first.token_ids() == second.token_ids());
  CHECK(first.events.back().finished().replay_digest() ==
        second.events.back().finished().replay_digest());
  CHECK(first.token_ids() != other.token_ids());
}

TEST_CASE("what is guessed ahead is counted, and changes nothing else") {
  EngineConfig config = SmallFairytaleConfig();
  config.speculation.method = SpeculationMethod::kLookup;
  TestServer server;
  server.ServeReal(config);
  const std::string once = "The king said to his son: go into the wood. ";
  v1::GenerateRequest request = TextRequest(once + once + once + once, 60);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_ignore_eos(true);
  // Whether a guess is worth its row is judged by what rows cost lately: on a machine that is busy
  // with other things an answer may go without.
  Stream guessed;
  int64_t drafted = 0;
  int64_t accepted = 0;
  for (int i = 0; i < 50 && accepted == 0; ++i) {
    guessed = Generate(server.channel(), request);
    REQUIRE(guessed.status.ok());
    const v1::Usage usage = guessed.finished().usage();
    CHECK(usage.drafted_tokens() >= usage.accepted_tokens());
    drafted += usage.drafted_tokens();
    accepted += usage.accepted_tokens();
  }
// Under sanitizers a row costs nearly what a step costs, and no guess is worth it.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(accepted > 0);
#endif
  request.set_speculate(false);
  const Stream plain = Generate(server.channel(), request);
  REQUIRE(plain.status.ok());
  CHECK(plain.finished().usage().drafted_tokens() == 0);
  CHECK(plain.finished().usage().accepted_tokens() == 0);
  CHECK(guessed.text() == plain.text());
  CHECK(guessed.finished().replay_digest() == plain.finished().replay_digest());
  const auto control = v1::Control::NewStub(server.channel());
  grpc::ClientContext load_context;
  v1::GetLoadResponse load;
  REQUIRE(control->GetLoad(&load_context, {}, &load).ok());
  CHECK(load.models(0).drafted_tokens() == drafted);
  CHECK(load.models(0).accepted_tokens() == accepted);
  grpc::ClientContext usage_context;
  v1::GetUsageResponse usage;
  REQUIRE(control->GetUsage(&usage_context, {}, &usage).ok());
  CHECK(usage.drafted_tokens() == drafted);
  CHECK(usage.accepted_tokens() == accepted);
}

TEST_CASE("echo, logprobs and a stop string arrive as asked for") {
  TestServer server;
  server.ServeReal();
  v1::GenerateRequest request = TextRequest("Once upon a time", 24);
  request.mutable_sampling()->set_temperature(0);
  const std::string plain = Generate(server.channel(), request).text();
  // Some words of the answer, cut where no token need end.
  const std::string stop = plain.substr(plain.size() / 2, 5);
  request.mutable_stopping()->add_stop_strings("never in there");
  request.mutable_stopping()->add_stop_strings(stop);
  request.mutable_output()->set_logprobs(2);
  request.mutable_output()->set_echo(true);
  const Stream stream = Generate(server.channel(), request);
  REQUIRE(stream.status.ok());
  CHECK(stream.text() == plain.substr(0, plain.find(stop)));
  const v1::Finished& finished = stream.events.back().finished();
  CHECK(finished.reason() == v1::FINISH_REASON_STOP_STRING);
  CHECK(finished.stop_index() == 1);
  std::string prompt;
  int num_prompt_tokens = 0;
  for (const v1::GenerateEvent& event : stream.events) {
    for (const v1::ScoredToken& token : event.prompt().tokens()) {
      CHECK(token.has_logprob() == (num_prompt_tokens > 0));
      CHECK(token.alternatives_size() == (num_prompt_tokens > 0 ? 2 : 0));
      prompt += token.token_bytes();
      ++num_prompt_tokens;
    }
    REQUIRE(event.delta().tokens_size() == event.delta().token_ids_size());
    for (int i = 0; i < event.delta().tokens_size(); ++i) {
      const v1::ScoredToken& token = event.delta().tokens(i);
      CHECK(token.token_id() == event.delta().token_ids(i));
      REQUIRE(token.alternatives_size() == 2);
      CHECK(token.alternatives(0).token_id() == token.token_id());  // greedy
      CHECK(token.alternatives(0).logprob() == token.logprob());
      CHECK(token.alternatives(0).logprob() >= token.alternatives(1).logprob());
    }
  }
  CHECK(prompt == "Once upon a time");
}

TEST_CASE("a cancelled call frees its place") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, TextRequest("a", 100));
  const uint64_t id = engine.AwaitRequest();
  engine.Say(id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  engine.SayToken(id, 0, 300);
  v1::GenerateEvent event;
  REQUIRE(reader->Read(&event));
  context.TryCancel();
  engine.AwaitCancel(id);
  engine.SayFailed(id, absl::CancelledError("cancelled"));
  while (reader->Read(&event)) {
  }
  CHECK(reader->Finish().error_code() == grpc::StatusCode::CANCELLED);
}

TEST_CASE("the call's deadline and queue_timeout are the engine's to keep") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext context;
  const absl::Time deadline = absl::Now() + absl::Seconds(50);
  context.set_deadline(absl::ToChronoTime(deadline));
  v1::GenerateRequest request = TextRequest("a", 100);
  request.mutable_queue_timeout()->set_nanos(5'000'000);
  request.set_priority(-3);
  const auto reader = stub->Generate(&context, request);
  const uint64_t id = engine.AwaitRequest();
  const GenerateRequest taken = engine.TakeRequest(id);
  CHECK(absl::AbsDuration(taken.deadline - deadline) < absl::Seconds(1));
  CHECK(taken.queue_timeout == absl::Milliseconds(5));
  CHECK(taken.priority == -3);
  engine.SayFailed(id, absl::DeadlineExceededError("queue_timeout passed"));
  v1::GenerateEvent event;
  CHECK_FALSE(reader->Read(&event));
  const grpc::Status status = reader->Finish();
  CHECK(status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED);
  CHECK(status.error_message() == "queue_timeout passed");
}

TEST_CASE("a deadline that passes ends the call in the engine too") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(1)));
  const auto reader = stub->Generate(&context, TextRequest("a", 100));
  const uint64_t id = engine.AwaitRequest();
  v1::GenerateEvent event;
  CHECK_FALSE(reader->Read(&event));
  CHECK(reader->Finish().error_code() == grpc::StatusCode::DEADLINE_EXCEEDED);
  engine.AwaitCancel(id);
  engine.SayFailed(id, absl::DeadlineExceededError("too late"));
}

TEST_CASE("an internal error is told to the client and to whoever watches") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  absl::Notification heard;
  server.pump().OnInternalError([&] { heard.Notify(); });
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, TextRequest("a", 100));
  const uint64_t id = engine.AwaitRequest();
  engine.SayFailed(id, absl::InternalError("the device failed"));
  const Stream stream = ReadAll(*reader);
  CHECK(stream.status.error_code() == grpc::StatusCode::INTERNAL);
  CHECK(stream.status.error_message() == "the device failed");
  heard.WaitForNotification();
}

TEST_CASE("a full queue says when to come back") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  engine.Refuse(absl::ResourceExhaustedError("the queue is full"));
  const Stream stream = Generate(server.channel(), TextRequest("a", 1));
  CHECK(stream.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(stream.status.error_message() == "the queue is full");
  v1::StatusDetails details;
  REQUIRE(details.ParseFromString(stream.status.error_details()));
  CHECK(details.code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  REQUIRE(details.details_size() == 1);
  CHECK(details.details(0).type_url() == "type.googleapis.com/google.rpc.RetryInfo");
  v1::RetryInfo retry;
  REQUIRE(retry.ParseFromString(details.details(0).value()));
  CHECK(retry.retry_delay().nanos() > 0);
}

TEST_CASE("the real queue fills, and every call that was taken ends well") {
  TestServer server;
  EngineConfig config = SmallFairytaleConfig();
  config.scheduler.max_batch = 1;
  config.scheduler.max_queue = 1;
  server.ServeReal(config);
  constexpr int kCalls = 12;
  std::vector<Stream> streams(kCalls);
  std::vector<std::thread> clients;
  for (Stream& stream : streams) {
    clients.emplace_back(
        [&] { stream = Generate(server.channel(), TextRequest("Once upon a time", 60)); });
  }
  for (std::thread& client : clients) {
    client.join();
  }
  int num_ok = 0;
  for (const Stream& stream : streams) {
    if (stream.status.ok()) {
      ++num_ok;
      CHECK(stream.token_ids() ==
            Generate(server.channel(), TextRequest("Once upon a time", 60)).token_ids());
    } else {
      CHECK(stream.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
    }
  }
  CHECK(num_ok >= 1);
}

TEST_CASE("no more calls are open than the server takes") {
  ServerOptions options = TestServer::DefaultOptions();
  options.max_calls = 2;
  TestServer server(options);
  ScriptedEngine& engine = server.ServeScripted();
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext contexts[2];
  const auto first = stub->Generate(&contexts[0], TextRequest("a", 9));
  const auto second = stub->Generate(&contexts[1], TextRequest("a", 9));
  const uint64_t id = engine.AwaitRequest(0);
  const uint64_t other_id = engine.AwaitRequest(1);
  // Over another connection: one connection's streams have a limit of their own.
  const Stream third = Generate(server.NewChannel(), TextRequest("a", 9));
  CHECK(third.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(third.status.error_message() == "2 calls are open, the most that this server takes");
  const auto control = v1::Control::NewStub(server.channel());
  grpc::ClientContext control_context;
  v1::GetLoadResponse load;
  engine.SayFailed(id, absl::InternalError("over"));
  engine.SayFailed(other_id, absl::InternalError("over"));
  CHECK(ReadAll(*first).status.error_code() == grpc::StatusCode::INTERNAL);
  CHECK(ReadAll(*second).status.error_code() == grpc::StatusCode::INTERNAL);
  REQUIRE(control->GetLoad(&control_context, {}, &load).ok());
  CHECK(load.max_calls() == 2);
}

TEST_CASE("a slow reader pauses its own sequence and misses nothing") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, TextRequest("a", 2'000'000));
  const uint64_t id = engine.AwaitRequest();
  engine.Say(id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  int32_t num_tokens = 0;
  // Nobody reads: once the connection's windows and the call's buffer are full the engine is asked
  // to pause. The bound of what may pile up before that is generous and finite.
  while (!engine.is_paused(id)) {
    REQUIRE(num_tokens < 1'000'000);
    engine.SayToken(id, num_tokens, 300 + num_tokens % 3000);
    if (++num_tokens % 256 == 0) {
      server.AwaitPump();
    }
  }
  // Another stream does not notice.
  grpc::ClientContext other_context;
  const auto other_stub = v1::Inference::NewStub(server.NewChannel());
  const auto other = other_stub->Generate(&other_context, TextRequest("b", 1));
  const uint64_t other_id = engine.AwaitRequest(1);
  engine.Say(other_id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  engine.SayToken(other_id, 0, 400);
  FinishedEvent done;
  done.usage.completion_tokens = 1;
  engine.Say(other_id, done);
  CHECK(ReadAll(*other).token_ids() == std::vector<int32_t>{400});
  // Read on: the sequence is resumed, and the stream is whole.
  std::thread feeder([&] {
    engine.AwaitResume(id);
    engine.SayToken(id, num_tokens, 301);
    FinishedEvent finished;
    finished.usage.completion_tokens = num_tokens + 1;
    engine.Say(id, finished);
  });
  const Stream stream = ReadAll(*reader);
  feeder.join();
  REQUIRE(stream.status.ok());
  const std::vector<int32_t> ids = stream.token_ids();
  REQUIRE(ids.size() == static_cast<size_t>(num_tokens) + 1);
  for (int32_t i = 0; i < num_tokens; ++i) {
    if (ids[static_cast<size_t>(i)] != 300 + i % 3000) {
      FAIL("token " << i << " is " << ids[static_cast<size_t>(i)]);
    }
  }
  CHECK(engine.num_pauses() >= 1);
  // Merged: far fewer messages than tokens.
  CHECK(stream.events.size() < ids.size());
}

TEST_CASE("a reader that left is cancelled and its buffer dropped") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  uint64_t id = 0;
  {
    const auto channel = server.NewChannel();
    const auto stub = v1::Inference::NewStub(channel);
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, TextRequest("a", 1000));
    id = engine.AwaitRequest();
    engine.Say(id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
    context.TryCancel();
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
    }
    reader->Finish();
  }
  engine.AwaitCancel(id);
  for (int i = 0; i < 1000; ++i) {  // the engine may say more before it notices
    engine.SayToken(id, i, 500);
  }
  engine.SayFailed(id, absl::CancelledError("cancelled"));
}

}  // namespace
}  // namespace ringserve
