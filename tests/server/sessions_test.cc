// Sessions over the wire, on the real engine: turns, losses of clients at every token, and whose
// sessions they are.
#include <string>
#include <vector>

#include "tests/support/session_asker.h"

namespace ringserve {
namespace {

TEST_CASE("turns of a session say what requests of the whole text say") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  Asker asker(server);
  const std::string id = asker.Create().id();
  Ids text;
  for (const Ids& prompt : {kFirst, kSecond, kThird}) {
    const auto before = static_cast<int64_t>(text.size());
    v1::GenerateRequest request = TurnRequest(id, prompt, 9);
    request.mutable_session()->set_expected_position(before);
    const Stream turn = Generate(server.channel(), request);
    INFO(turn.status.error_message());
    REQUIRE(turn.status.ok());
    text = Join(text, prompt);
    const Stream alone = Generate(server.channel(), IdsRequest(text, 9));
    REQUIRE(alone.status.ok());
    CHECK(turn.token_ids() == alone.token_ids());
    const v1::Finished& finished = turn.events.back().finished();
    CHECK(finished.replay_digest() == alone.events.back().finished().replay_digest());
    CHECK(finished.usage().prompt_tokens() == static_cast<int64_t>(prompt.size()));
    CHECK(finished.usage().cached_tokens() == std::max<int64_t>(before - 1, 0));
    CHECK(finished.usage().reprefilled_tokens() == 0);
    text = Join(text, turn.token_ids());
    CHECK(finished.session_position() == static_cast<int64_t>(text.size()));
  }
  const v1::Session session = asker.Get(id);
  CHECK(session.position() == static_cast<int64_t>(text.size()));
  CHECK(session.usage().turns() == 3);
  CHECK(session.usage().completion_tokens() == 27);
  CHECK(asker.Close(id) == grpc::StatusCode::OK);
  CHECK(asker.Close(id) == grpc::StatusCode::NOT_FOUND);
  CHECK(Generate(server.channel(), TurnRequest(id, kFirst, 1)).status.error_code() ==
        grpc::StatusCode::NOT_FOUND);
}

TEST_CASE("a client lost at any token leaves the session as its turn asked for") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  Asker asker(server);
  constexpr int64_t kLong = 150;
  const Stream first = Generate(server.channel(), IdsRequest(kFirst, 6));
  REQUIRE(first.status.ok());
  const Ids start = Join(kFirst, first.token_ids());
  const auto start_len = static_cast<int64_t>(start.size());
  const Stream whole = Generate(server.channel(), IdsRequest(Join(start, kSecond), kLong));
  REQUIRE(whole.status.ok());
  const Ids lost_text = Join(Join(start, kSecond), whole.token_ids());
  const auto stub = v1::Inference::NewStub(server.channel());

  for (const v1::OnCancel policy :
       {v1::ON_CANCEL_UNSPECIFIED, v1::ON_CANCEL_KEEP_DELIVERED, v1::ON_CANCEL_KEEP_ALL}) {
    for (int64_t lost_at = 0; lost_at <= 10; ++lost_at) {
      const std::string id = asker.Create().id();
      REQUIRE(Generate(server.channel(), TurnRequest(id, kFirst, 6)).status.ok());
      int64_t num_read = 0;
      {
        grpc::ClientContext context;
        const auto reader = stub->Generate(&context, TurnRequest(id, kSecond, kLong, policy));
        v1::GenerateEvent event;
        REQUIRE(reader->Read(&event));  // accepted: the turn has begun
        while (num_read < lost_at && reader->Read(&event)) {
          num_read += event.delta().token_ids_size();
        }
        context.TryCancel();
        while (reader->Read(&event)) {
        }
        CHECK(reader->Finish().error_code() == grpc::StatusCode::CANCELLED);
      }
      const int64_t position = asker.GetIdle(id).position();
      INFO("policy " << policy << ", lost at " << lost_at << ", position " << position);
      if (policy == v1::ON_CANCEL_UNSPECIFIED) {
        CHECK(position == start_len);
      } else if (num_read > 0) {
        CHECK(position >= start_len + static_cast<int64_t>(kSecond.size()) + num_read);
      }
      REQUIRE(position >= start_len);
      REQUIRE(position <= static_cast<int64_t>(lost_text.size()));
      // The next turn is that of a session that never saw the loss.
      const Ids kept(lost_text.begin(), lost_text.begin() + position);
      const Stream turn = Generate(server.channel(), TurnRequest(id, kThird, 5));
      const Stream alone = Generate(server.channel(), IdsRequest(Join(kept, kThird), 5));
      REQUIRE(turn.status.ok());
      CHECK(turn.token_ids() == alone.token_ids());
      CHECK(turn.events.back().finished().replay_digest() ==
            alone.events.back().finished().replay_digest());
      CHECK(asker.Close(id) == grpc::StatusCode::OK);
    }
  }
}

TEST_CASE("a turn that is cancelled at its last token is wholly there or not at all") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  Asker asker(server);
  const auto stub = v1::Inference::NewStub(server.channel());
  for (int64_t read_before = 3; read_before <= 5; ++read_before) {
    for (int i = 0; i < 5; ++i) {
      const std::string id = asker.Create().id();
      {
        grpc::ClientContext context;
        const auto reader = stub->Generate(&context, TurnRequest(id, kFirst, 5));
        v1::GenerateEvent event;
        int64_t num_read = 0;
        while (num_read < read_before && reader->Read(&event)) {
          num_read += event.delta().token_ids_size();
        }
        context.TryCancel();
        while (reader->Read(&event)) {
        }
        reader->Finish();
      }
      const int64_t position = asker.GetIdle(id).position();
      CHECK((position == 0 || position == 10));
      Ids text;
      if (position != 0) {
        text = Join(kFirst, Generate(server.channel(), IdsRequest(kFirst, 5)).token_ids());
      }
      const Stream turn = Generate(server.channel(), TurnRequest(id, kThird, 3));
      REQUIRE(turn.status.ok());
      CHECK(turn.token_ids() ==
            Generate(server.channel(), IdsRequest(Join(text, kThird), 3)).token_ids());
    }
  }
}

TEST_CASE("of two turns on one position one loses") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  Asker asker(server);
  const std::string id = asker.Create().id();
  v1::GenerateRequest request = TurnRequest(id, kFirst, 3);
  request.mutable_session()->set_expected_position(0);
  REQUIRE(Generate(server.channel(), request).status.ok());
  CHECK(Generate(server.channel(), request).status.error_code() == grpc::StatusCode::ABORTED);
  CHECK(asker.Get(id).position() == 8);
}

TEST_CASE("a session is rolled back to any position that its floor allows") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  Asker asker(server);
  const std::string id = asker.Create().id();
  const Stream turn = Generate(server.channel(), TurnRequest(id, kFirst, 20));
  REQUIRE(turn.status.ok());
  Ids text = Join(kFirst, turn.token_ids());
  for (const int64_t position : {25, 24, 13, 5, 1, 0}) {
    REQUIRE(asker.Rollback(id, position) == grpc::StatusCode::OK);
    CHECK(asker.Get(id).position() == position);
    text.resize(static_cast<size_t>(position));
    const Stream next = Generate(server.channel(), TurnRequest(id, kThird, 4));
    REQUIRE(next.status.ok());
    CHECK(next.token_ids() ==
          Generate(server.channel(), IdsRequest(Join(text, kThird), 4)).token_ids());
    REQUIRE(asker.Rollback(id, position) == grpc::StatusCode::OK);
  }
  CHECK(asker.Rollback(id, 1) == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(asker.Rollback(id, -1) == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(asker.Rollback(id, std::nullopt) == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(asker.Rollback("", 0) == grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_CASE("forks go on from where they were made, each on its own") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  Asker asker(server);
  const std::string id = asker.Create().id();
  const Stream first = Generate(server.channel(), TurnRequest(id, kFirst, 40));
  REQUIRE(first.status.ok());
  const Ids text = Join(kFirst, first.token_ids());
  v1::ForkSessionRequest request;
  request.set_id(id);
  const auto check = [&](const std::string& of, size_t position, const Ids& prompt) {
    const Ids kept(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(position));
    const Stream turn = Generate(server.channel(), TurnRequest(of, prompt, 6));
    const Stream alone = Generate(server.channel(), IdsRequest(Join(kept, prompt), 6));
    REQUIRE(turn.status.ok());
    CHECK(turn.token_ids() == alone.token_ids());
    CHECK(turn.finished().replay_digest() == alone.finished().replay_digest());
    CHECK(turn.finished().usage().reprefilled_tokens() == 0);
  };
  for (const size_t position : {text.size(), text.size() - 1, size_t{33}, size_t{32}, size_t{3}}) {
    request.set_position(static_cast<int64_t>(position));
    v1::Session fork;
    REQUIRE(asker.Ask(&v1::Sessions::Stub::Fork, request, fork).ok());
    CHECK(fork.id() != id);
    CHECK(fork.position() == static_cast<int64_t>(position));
    check(fork.id(), position, kSecond);
    CHECK(asker.Close(fork.id()) == grpc::StatusCode::OK);
  }
  request.clear_position();
  v1::Session fork;
  REQUIRE(asker.Ask(&v1::Sessions::Stub::Fork, request, fork).ok());
  CHECK(fork.position() == static_cast<int64_t>(text.size()));
  check(id, text.size(), kThird);
  CHECK(asker.Close(id) == grpc::StatusCode::OK);
  check(fork.id(), text.size(), kSecond);

  const auto refused = [&](const v1::ForkSessionRequest& bad) {
    v1::Session out;
    return asker.Ask(&v1::Sessions::Stub::Fork, bad, out).error_code();
  };
  CHECK(refused(request) == grpc::StatusCode::NOT_FOUND);
  request.clear_id();
  CHECK(refused(request) == grpc::StatusCode::INVALID_ARGUMENT);
  request.set_id(fork.id());
  request.set_position(-1);
  CHECK(refused(request) == grpc::StatusCode::INVALID_ARGUMENT);
  request.set_position(1000);
  CHECK(refused(request) == grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_CASE("a session is its maker's alone") {
  ServerOptions options = TestServer::DefaultOptions();
  options.identity_header = kIdentityHeader;
  TestServer server(options);
  server.ServeReal(ConfigWithSessions());
  Asker ann(server, "ann");
  Asker bob(server, "bob");
  const std::string id = ann.Create().id();
  const std::string other = ann.Create().id();
  CHECK(ann.List() == std::vector<std::string>{id, other});
  CHECK(bob.List().empty());
  v1::ForkSessionRequest fork;
  fork.set_id(id);
  v1::Session forked;
  CHECK(bob.Ask(&v1::Sessions::Stub::Fork, fork, forked).error_code() ==
        grpc::StatusCode::NOT_FOUND);
  CHECK(bob.Rollback(id, 0) == grpc::StatusCode::NOT_FOUND);
  CHECK(bob.Close(id) == grpc::StatusCode::NOT_FOUND);
  // The anonymous caller.
  CHECK(Generate(server.channel(), TurnRequest(id, kFirst, 1)).status.error_code() ==
        grpc::StatusCode::NOT_FOUND);
  CHECK(ann.Close(id) == grpc::StatusCode::OK);
}

TEST_CASE("bad sessions are refused by name") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  Asker asker(server);
  const auto create = [&](int64_t buffer_size, int64_t idle_seconds) {
    v1::CreateSessionRequest request;
    request.set_buffer_size(buffer_size);
    if (idle_seconds != 0) {
      request.mutable_idle_timeout()->set_seconds(idle_seconds);
    }
    v1::Session out;
    return asker.Ask(&v1::Sessions::Stub::Create, request, out).error_code();
  };
  CHECK(create(0, 60) == grpc::StatusCode::OK);
  CHECK(create(64, 0) == grpc::StatusCode::OK);
  CHECK(create(-1, 0) == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(create(33, 0) == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(create(1 << 20, 0) == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(create(0, -1) == grpc::StatusCode::INVALID_ARGUMENT);
  const auto turn = [&](const auto& change) {
    v1::GenerateRequest request = TurnRequest("x", kFirst, 1);
    change(request);
    return Generate(server.channel(), request).status;
  };
  CHECK(turn([](v1::GenerateRequest& r) { r.mutable_session()->clear_id(); }).error_message() ==
        "session.id: not set");
  CHECK(turn([](v1::GenerateRequest& r) {
          r.mutable_session()->set_expected_position(-1);
        }).error_message() == "session.expected_position: -1 is below 0");
  CHECK(turn([](v1::GenerateRequest& r) {
          r.mutable_session()->set_on_cancel(static_cast<v1::OnCancel>(9));
        }).error_message() == "session.on_cancel: 9 is not in [0, 3]");
}

}  // namespace
}  // namespace ringserve
