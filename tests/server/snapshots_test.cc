// Sessions that leave one server and go on in another, over the wire on the real engine.
#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/session_asker.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

TEST_CASE("a session that was taken to another server goes on to the bit") {
  TestServer here;
  here.ServeReal(ConfigWithSessions());
  TestServer there;
  there.ServeReal(ConfigWithSessions());
  Asker at_home(here);
  Asker abroad(there);
  const std::string id = at_home.Create(128).id();
  for (const int64_t max_tokens : {0, 3, 27, 40}) {
    if (max_tokens > 0) {
      REQUIRE(Generate(here.channel(), TurnRequest(id, kFirst, max_tokens)).status.ok());
    }
    std::string bytes;
    REQUIRE(at_home.Export(id, bytes).ok());
    for (const size_t piece_bytes : {size_t{100'000}, size_t{1} << 20, bytes.size()}) {
      v1::Session session;
      const grpc::Status status = abroad.Import(bytes, piece_bytes, session);
      INFO(status.error_message());
      REQUIRE(status.ok());
      const v1::Session original = at_home.Get(id);
      CHECK(session.id() != id);
      CHECK(session.position() == original.position());
      CHECK(session.buffer_size() == 128);
      CHECK(session.num_blocks() == original.num_blocks());
      CHECK_FALSE(session.busy());
      // The one that never left, as a fork so that it stays where it is.
      v1::ForkSessionRequest request;
      request.set_id(id);
      v1::Session stayed;
      REQUIRE(at_home.Ask(&v1::Sessions::Stub::Fork, request, stayed).ok());
      const Stream expected = Generate(here.channel(), TurnRequest(stayed.id(), kSecond, 12));
      const Stream got = Generate(there.channel(), TurnRequest(session.id(), kSecond, 12));
      REQUIRE(expected.status.ok());
      REQUIRE(got.status.ok());
      CHECK(got.token_ids() == expected.token_ids());
      CHECK(got.finished().replay_digest() == expected.finished().replay_digest());
      CHECK(got.finished().usage().cached_tokens() == expected.finished().usage().cached_tokens());
      CHECK(got.finished().usage().reprefilled_tokens() == 0);
      CHECK(at_home.Close(stayed.id()) == grpc::StatusCode::OK);
      CHECK(abroad.Close(session.id()) == grpc::StatusCode::OK);
    }
  }
  const EngineLoad load = there.models().models().front()->engine->load();
  CHECK(load.sessions == 0);
  CHECK(load.device_blocks_free == load.device_blocks);
}

TEST_CASE("what is no snapshot of this model is refused, and leaves nothing") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  EngineConfig other_config = ConfigWithSessions();
  other_config.model.dtype = DTypePolicy::kF32;
  TestServer other;
  other.ServeReal(other_config);
  Asker asker(server);
  const std::string id = asker.Create().id();
  REQUIRE(Generate(server.channel(), TurnRequest(id, kFirst, 40)).status.ok());
  std::string bytes;
  REQUIRE(asker.Export(id, bytes).ok());
  const auto take_in = [&](TestServer& to, const std::string& snapshot) {
    v1::Session session;
    return Asker(to).Import(snapshot, 50'000, session).error_code();
  };
  CHECK(take_in(other, bytes) == grpc::StatusCode::FAILED_PRECONDITION);
  CHECK(take_in(server, bytes.substr(0, bytes.size() / 2)) == grpc::StatusCode::DATA_LOSS);
  CHECK(take_in(server, bytes + "x") == grpc::StatusCode::DATA_LOSS);
  CHECK(take_in(server, "hello") == grpc::StatusCode::DATA_LOSS);
  CHECK(take_in(server, "") == grpc::StatusCode::INVALID_ARGUMENT);
  for (const size_t at :
       {size_t{3}, size_t{100}, size_t{300}, bytes.size() / 2, bytes.size() - 1}) {
    std::string flipped = bytes;
    flipped[at] = static_cast<char>(flipped[at] ^ 16);
    CHECK(take_in(server, flipped) == grpc::StatusCode::DATA_LOSS);
  }
  CHECK(asker.List() == std::vector<std::string>{id});
  std::string nothing;
  CHECK(asker.Export("no such session", nothing).error_code() == grpc::StatusCode::NOT_FOUND);
  CHECK(asker.Export("", nothing).error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(nothing.empty());
}

TEST_CASE("a snapshot is its maker's to take, and its bearer's to keep") {
  ServerOptions options = TestServer::DefaultOptions();
  options.identity_header = kIdentityHeader;
  TestServer server(options);
  server.ServeReal(ConfigWithSessions());
  Asker ann(server, "ann");
  Asker bob(server, "bob");
  const std::string id = ann.Create().id();
  std::string bytes;
  CHECK(bob.Export(id, bytes).error_code() == grpc::StatusCode::NOT_FOUND);
  REQUIRE(ann.Export(id, bytes).ok());
  // It names neither the session nor whose it was.
  CHECK(bytes.find("ann") == std::string::npos);
  CHECK(bytes.find(id) == std::string::npos);
  v1::Session session;
  REQUIRE(bob.Import(bytes, 1000, session).ok());
  CHECK(ann.List() == std::vector<std::string>{id});
  CHECK(bob.List() == std::vector<std::string>{session.id()});
}

TEST_CASE("sessions outlive a server that has a disk, with their owners and what they cost") {
  TempDir folder;
  EngineConfig config = ConfigWithSessions();
  config.memory.disk_path = folder.path();
  config.memory.disk_bytes = 100 << 20;
  ServerOptions options = TestServer::DefaultOptions();
  options.identity_header = kIdentityHeader;
  Ids text = kFirst;
  std::string id;
  std::string empty;
  {
    TestServer server(options);
    server.ServeReal(config);
    Asker ann(server, "ann");
    id = ann.Create().id();
    empty = ann.Create().id();
    const Stream turn = ann.Turn(TurnRequest(id, kFirst, 30));
    REQUIRE(turn.status.ok());
    text = Join(text, turn.token_ids());
    REQUIRE(ann.Rollback(id, 20) == grpc::StatusCode::OK);
    text.resize(20);
    const v1::GetUsageResponse usage = ann.Usage();
    CHECK(usage.rollbacks() == 1);
    CHECK(usage.device_byte_seconds() > 0);
    CHECK(usage.host_byte_seconds() == 0);
    CHECK(ann.Get(id).usage().device_byte_seconds() > 0);
    CHECK(Asker(server, "bob").Usage().device_byte_seconds() == 0);
  }
  TestServer server(options);
  server.ServeReal(config);
  Asker ann(server, "ann");
  CHECK(Asker(server, "bob").List().empty());
  CHECK(ann.List().size() == 2);
  CHECK(ann.Get(empty).position() == 0);
  CHECK(ann.Get(id).position() == 20);
  const EngineLoad before = server.models().models().front()->engine->load();
  CHECK(before.disk.num_sessions == 2);
  CHECK(before.device_blocks_free == before.device_blocks);
  const Stream turn = ann.Turn(TurnRequest(id, kSecond, 8));
  INFO(turn.status.error_message());
  REQUIRE(turn.status.ok());
  CHECK(turn.token_ids() == ann.Turn(IdsRequest(Join(text, kSecond), 8)).token_ids());
  CHECK(turn.finished().usage().cached_tokens() == 20);
  CHECK(turn.finished().usage().reprefilled_tokens() == 0);
}

TEST_CASE("a session is free once the client has the end of its snapshot") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  Asker asker(server);
  const std::string id = asker.Create().id();
  REQUIRE(asker.Turn(TurnRequest(id, kFirst, 3)).status.ok());
  for (int i = 0; i < 30; ++i) {
    std::string bytes;
    const grpc::Status exported = asker.Export(id, bytes);
    INFO("time " << i << ": " << exported.error_message());
    REQUIRE(exported.ok());
    const Stream turn = asker.Turn(TurnRequest(id, kSecond, 1));
    INFO(turn.status.error_message());
    REQUIRE(turn.status.ok());
    REQUIRE(asker.Rollback(id, 8) == grpc::StatusCode::OK);
    REQUIRE(asker.Export(id, bytes).ok());
    REQUIRE(asker.Rollback(id, 5) == grpc::StatusCode::OK);
  }
}

TEST_CASE("clients that leave in the middle of a snapshot leave nothing behind") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  Asker asker(server);
  const auto stub = v1::Sessions::NewStub(server.channel());
  const std::string id = asker.Create().id();
  REQUIRE(Generate(server.channel(), TurnRequest(id, kFirst, 40)).status.ok());
  std::string bytes;
  REQUIRE(asker.Export(id, bytes).ok());
  {
    grpc::ClientContext context;
    v1::ExportSessionRequest request;
    request.set_id(id);
    const auto reader = stub->Export(&context, request);
    v1::SnapshotChunk chunk;
    REQUIRE(reader->Read(&chunk));
    context.TryCancel();
    while (reader->Read(&chunk)) {
    }
    reader->Finish();
  }
  {
    grpc::ClientContext context;
    v1::Session session;
    const auto writer = stub->Import(&context, &session);
    v1::ImportSessionRequest request;
    request.set_data(bytes.substr(0, bytes.size() - 1));
    REQUIRE(writer->Write(request));
    context.TryCancel();
    CHECK(writer->Finish().error_code() == grpc::StatusCode::CANCELLED);
  }
  asker.GetIdle(id);  // is not busy for ever
  while (server.models().models().front()->engine->load().sessions > 1) {
    std::this_thread::yield();
  }
  CHECK(Generate(server.channel(), TurnRequest(id, kSecond, 3)).status.ok());
}

}  // namespace
}  // namespace ringserve
