// Streams that drop and are attached to again, requests that are ended by id, and whose they are.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ringserve/v1/control.grpc.pb.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

constexpr char kIdentityHeader[] = "x-caller";

ServerOptions WithIdentity() {
  ServerOptions options = TestServer::DefaultOptions();
  options.identity_header = kIdentityHeader;
  return options;
}

v1::GenerateRequest Resumable(const std::string& request_id = "") {
  v1::GenerateRequest request = TextRequest("a", 100);
  request.set_resumable(true);
  request.set_request_id(request_id);
  return request;
}

// One Generate or Attach call.
struct Call {
  explicit Call(TestServer& server, const std::string& caller = "")
      : stub(v1::Inference::NewStub(server.channel())) {
    if (!caller.empty()) {
      context.AddMetadata(kIdentityHeader, caller);
    }
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(60)));
  }

  void Generate(const v1::GenerateRequest& request) { reader = stub->Generate(&context, request); }

  void Attach(const std::string& request_id, uint64_t sequence) {
    v1::AttachRequest request;
    request.set_request_id(request_id);
    request.set_sequence(sequence);
    reader = stub->Attach(&context, request);
  }

  // Reads up to and with the event that brings the nth token; n 0: the accepted event.
  void ReadTokens(size_t n) {
    v1::GenerateEvent event;
    while (events.empty() || token_ids().size() < n) {
      REQUIRE(reader->Read(&event));
      events.push_back(event);
    }
  }

  grpc::Status ReadToEnd() {
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
      events.push_back(event);
    }
    return reader->Finish();
  }

  // The client goes away.
  void Drop() {
    context.TryCancel();
    const size_t num_seen = events.size();
    CHECK(ReadToEnd().error_code() == grpc::StatusCode::CANCELLED);
    events.resize(num_seen);  // what arrived on the way is lost
  }

  std::vector<int32_t> token_ids() const {
    std::vector<int32_t> ids;
    for (const v1::GenerateEvent& event : events) {
      ids.insert(ids.end(), event.delta().token_ids().begin(), event.delta().token_ids().end());
    }
    return ids;
  }

  uint64_t next_sequence() const { return events.back().sequence() + 1; }

  std::unique_ptr<v1::Inference::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> reader;
  std::vector<v1::GenerateEvent> events;
};

void SayTokens(TestServer& server, ScriptedEngine& engine, uint64_t id, int64_t from, int64_t to) {
  for (int64_t i = from; i < to; ++i) {
    engine.SayToken(id, i, static_cast<int32_t>(300 + i));
    server.AwaitPump();  // mostly one event each
  }
}

void SayFinished(ScriptedEngine& engine, uint64_t id, int64_t num_tokens) {
  FinishedEvent finished;
  finished.usage.prompt_tokens = 1;
  finished.usage.completion_tokens = num_tokens;
  engine.Say(id, finished);
}

TEST_CASE("a stream that drops at any token goes on where it was") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  constexpr int64_t kTokens = 12;
  for (int64_t drop = 0; drop <= kTokens; ++drop) {
    Call call(server);
    call.Generate(Resumable());
    const uint64_t id = engine.AwaitRequest(static_cast<size_t>(drop));
    engine.Say(id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
    SayTokens(server, engine, id, 0, drop);
    call.ReadTokens(static_cast<size_t>(drop));
    const std::string request_id = call.events.front().accepted().request_id();
    call.Drop();
    SayTokens(server, engine, id, drop, kTokens);
    CHECK_FALSE(engine.is_cancelled(id));

    // From where the client was, and from every event that it had seen before.
    for (uint64_t sequence = call.next_sequence() + 1; sequence-- > 0;) {
      Call again(server);
      again.Attach(request_id, sequence);
      if (sequence < call.next_sequence() || drop < kTokens) {  // else there is nothing to read yet
        again.ReadTokens(1);
        CHECK(again.events.front().sequence() == sequence);
      }
      again.Drop();
    }
    Call last(server);
    last.Attach(request_id, call.next_sequence());
    SayFinished(engine, id, kTokens);
    REQUIRE(last.ReadToEnd().ok());
    std::vector<int32_t> ids = call.token_ids();
    for (const int32_t token_id : last.token_ids()) {
      ids.push_back(token_id);
    }
    REQUIRE(ids.size() == kTokens);
    for (size_t i = 0; i < ids.size(); ++i) {
      CHECK(ids[i] == static_cast<int32_t>(300 + i));
    }
    uint64_t sequence = call.next_sequence();
    for (const v1::GenerateEvent& event : last.events) {
      CHECK(event.sequence() == sequence++);
    }
    // After its end too, and whole.
    Call whole(server);
    whole.Attach(request_id, 0);
    REQUIRE(whole.ReadToEnd().ok());
    CHECK(whole.events.front().has_accepted());
    CHECK(whole.token_ids() == ids);
    CHECK(whole.events.back().has_finished());
  }
}

TEST_CASE("a failure that nobody saw is told to who attaches") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  Call call(server);
  call.Generate(Resumable("mine"));
  const uint64_t id = engine.AwaitRequest();
  engine.Say(id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  call.ReadTokens(0);
  call.Drop();
  engine.SayFailed(id, absl::DeadlineExceededError("too late"));
  Call again(server);
  again.Attach("mine", 1);
  const grpc::Status status = again.ReadToEnd();
  CHECK(status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED);
  CHECK(status.error_message() == "too late");
}

TEST_CASE("the newest reader has the stream, and who had it is told") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  Call first(server);
  first.Generate(Resumable("mine"));
  const uint64_t id = engine.AwaitRequest();
  engine.Say(id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  first.ReadTokens(0);
  Call second(server);
  second.Attach("mine", 0);
  second.ReadTokens(0);
  CHECK(first.ReadToEnd().error_code() == grpc::StatusCode::ABORTED);
  SayTokens(server, engine, id, 0, 3);
  SayFinished(engine, id, 3);
  REQUIRE(second.ReadToEnd().ok());
  CHECK(second.token_ids() == std::vector<int32_t>{300, 301, 302});
  CHECK_FALSE(engine.is_cancelled(id));
}

TEST_CASE("only what is there, resumable and one's own can be attached to") {
  TestServer server(WithIdentity());
  ScriptedEngine& engine = server.ServeScripted();
  const auto attach = [&](const std::string& caller, const std::string& id, uint64_t sequence) {
    Call call(server, caller);
    call.Attach(id, sequence);
    return call.ReadToEnd().error_code();
  };
  Call plain(server, "ann");
  v1::GenerateRequest request = TextRequest("a", 100);
  request.set_request_id("plain");
  plain.Generate(request);
  const uint64_t plain_id = engine.AwaitRequest(0);
  Call kept(server, "ann");
  kept.Generate(Resumable("kept"));
  const uint64_t kept_id = engine.AwaitRequest(1);
  engine.Say(kept_id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  kept.ReadTokens(0);

  CHECK(attach("ann", "plain", 0) == grpc::StatusCode::NOT_FOUND);
  CHECK(attach("ann", "other", 0) == grpc::StatusCode::NOT_FOUND);
  CHECK(attach("bob", "kept", 0) == grpc::StatusCode::NOT_FOUND);
  CHECK(attach("", "kept", 0) == grpc::StatusCode::NOT_FOUND);
  CHECK(attach("ann", "", 0) == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(attach("ann", "k\xc3\xa9pt", 0) == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(attach("ann", "kept", 2) == grpc::StatusCode::OUT_OF_RANGE);
  CHECK(attach(std::string(2000, 'x'), "kept", 0) == grpc::StatusCode::UNAUTHENTICATED);

  // A name is taken while its request is live or kept; by this caller alone.
  Call twin(server, "ann");
  twin.Generate(Resumable("kept"));
  CHECK(twin.ReadToEnd().error_code() == grpc::StatusCode::ALREADY_EXISTS);
  Call stranger(server, "bob");
  stranger.Generate(Resumable("kept"));
  const uint64_t stranger_id = engine.AwaitRequest(2);
  for (const uint64_t id : {plain_id, kept_id, stranger_id}) {
    SayFinished(engine, id, 0);
  }
  CHECK(kept.ReadToEnd().ok());
}

TEST_CASE("a stream that nobody comes back to is cancelled and forgotten") {
  ServerOptions options = TestServer::DefaultOptions();
  options.streams.resume_timeout = absl::Milliseconds(1);
  TestServer server(options);
  ScriptedEngine& engine = server.ServeScripted();
  Call call(server);
  call.Generate(Resumable("mine"));
  const uint64_t id = engine.AwaitRequest();
  engine.Say(id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  call.ReadTokens(0);
  call.Drop();
  engine.AwaitCancel(id);
  engine.SayFailed(id, absl::CancelledError("cancelled"));
  server.AwaitPump();
  Call again(server);
  again.Attach("mine", 0);
  CHECK(again.ReadToEnd().error_code() == grpc::StatusCode::NOT_FOUND);
}

TEST_CASE("no more streams are kept than the server was told") {
  ServerOptions options = TestServer::DefaultOptions();
  options.streams.max_kept = 1;
  TestServer server(options);
  ScriptedEngine& engine = server.ServeScripted();
  Call first(server);
  first.Generate(Resumable("first"));
  engine.AwaitRequest();
  Call second(server);
  second.Generate(Resumable("second"));
  CHECK(second.ReadToEnd().error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);

  options.streams = {.resume_timeout = absl::ZeroDuration(), .max_kept = 1};
  TestServer none(options);
  none.ServeScripted();
  Call refused(none);
  refused.Generate(Resumable());
  CHECK(refused.ReadToEnd().error_code() == grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_CASE("what is kept of a stream is bounded, and so is what waits for a reader") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  Call call(server);
  call.Generate(Resumable("mine"));
  const uint64_t id = engine.AwaitRequest();
  engine.Say(id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  call.ReadTokens(0);
  call.Drop();
  int32_t num_tokens = 0;
  while (!engine.is_paused(id)) {
    REQUIRE(num_tokens < 100'000);
    engine.SayToken(id, num_tokens, 300 + num_tokens % 3000);
    if (++num_tokens % 256 == 0) {
      server.AwaitPump();
    }
  }
  Call again(server);
  again.Attach("mine", 1);
  again.ReadTokens(static_cast<size_t>(num_tokens));
  engine.AwaitResume(id);
  SayFinished(engine, id, num_tokens);
  CHECK(again.ReadToEnd().ok());
}

TEST_CASE("a request is ended by its id, by its caller alone") {
  TestServer server(WithIdentity());
  ScriptedEngine& engine = server.ServeScripted();
  const auto control = v1::Control::NewStub(server.channel());
  const auto abort = [&](const std::string& caller) {
    grpc::ClientContext context;
    context.AddMetadata(kIdentityHeader, caller);
    v1::AbortRequest request;
    request.add_request_ids("mine");
    request.add_request_ids("unknown");
    v1::AbortResponse response;
    REQUIRE(control->Abort(&context, request, &response).ok());
    return std::vector<std::string>(response.request_ids().begin(), response.request_ids().end());
  };
  Call call(server, "ann");
  v1::GenerateRequest request = TextRequest("a", 100);
  request.set_request_id("mine");
  call.Generate(request);
  const uint64_t id = engine.AwaitRequest();
  engine.Say(id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  call.ReadTokens(0);
  CHECK(abort("bob").empty());
  CHECK_FALSE(engine.is_cancelled(id));
  CHECK(abort("ann") == std::vector<std::string>{"mine"});
  engine.AwaitCancel(id);
  engine.SayFailed(id, absl::CancelledError("cancelled"));
  const grpc::Status status = call.ReadToEnd();
  CHECK(status.error_code() == grpc::StatusCode::CANCELLED);
  CHECK(status.error_message() == "aborted by Control.Abort");
  CHECK(abort("ann").empty());
}

TEST_CASE("usage is summed for each caller, and told to that caller") {
  TestServer server(WithIdentity());
  ScriptedEngine& engine = server.ServeScripted();
  const auto control = v1::Control::NewStub(server.channel());
  size_t num_requests = 0;
  for (const char* caller : {"ann", "bob", "ann"}) {
    Call call(server, caller);
    call.Generate(TextRequest("a", 100));
    const uint64_t id = engine.AwaitRequest(num_requests++);
    engine.Say(id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
    SayTokens(server, engine, id, 0, 5);
    SayFinished(engine, id, 5);
    REQUIRE(call.ReadToEnd().ok());
  }
  const auto usage = [&](const std::string& caller) {
    grpc::ClientContext context;
    context.AddMetadata(kIdentityHeader, caller);
    v1::GetUsageResponse out;
    REQUIRE(control->GetUsage(&context, {}, &out).ok());
    return out;
  };
  CHECK(usage("ann").finished_requests() == 2);
  CHECK(usage("ann").completion_tokens() == 10);
  CHECK(usage("ann").prompt_tokens() == 2);
  CHECK(usage("bob").completion_tokens() == 5);
  CHECK(usage("eve").finished_requests() == 0);
}

TEST_CASE("the load is told again and again until the server drains") {
  TestServer server;
  server.ServeReal();
  const auto control = v1::Control::NewStub(server.channel());
  grpc::ClientContext context;
  v1::WatchLoadRequest request;
  request.mutable_interval()->set_nanos(100'000'000);
  const auto reader = control->WatchLoad(&context, request);
  v1::GetLoadResponse load;
  for (int i = 0; i < 3; ++i) {
    REQUIRE(reader->Read(&load));
    CHECK(load.models_size() == 1);
  }
  grpc::ClientContext slow_context;
  request.mutable_interval()->set_seconds(3600);
  request.mutable_interval()->set_nanos(0);
  const auto slow = control->WatchLoad(&slow_context, request);
  REQUIRE(slow->Read(&load));
  grpc::ClientContext bad_context;
  request.mutable_interval()->set_seconds(3601);
  CHECK(control->WatchLoad(&bad_context, request)->Finish().error_code() ==
        grpc::StatusCode::INVALID_ARGUMENT);
  server.server().Drain(absl::Now() + absl::Seconds(60));
  while (reader->Read(&load)) {
  }
  CHECK(reader->Finish().error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK_FALSE(slow->Read(&load));
  CHECK(slow->Finish().error_code() == grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace ringserve
