// Score and Embed calls that are ended by the id which they gave themselves.
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/client_context.h>

#include "ringserve/v1/control.grpc.pb.h"
#include "tests/support/session_asker.h"

namespace ringserve {
namespace {

template <typename Request, typename Response>
using Method = grpc::Status (v1::Inference::Stub::*)(grpc::ClientContext*,
                                                     const Request&,
                                                     Response*);

// A call on a thread of its own.
class Call {
 public:
  template <typename Request, typename Response>
  Call(TestServer& server,
       const std::string& caller,
       Method<Request, Response> method,
       const Request& request) {
    context_.AddMetadata(kIdentityHeader, caller);
    thread_.emplace([this, &server, method, request] {
      Response response;
      const auto stub = v1::Inference::NewStub(server.channel());
      status_ = ((*stub).*method)(&context_, request, &response);
    });
  }

  ~Call() {
    if (thread_->joinable()) {
      thread_->join();
    }
  }

  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  grpc::Status Status() {
    thread_->join();
    return status_;
  }

 private:
  grpc::ClientContext context_;
  grpc::Status status_;
  std::optional<std::thread> thread_;
};

ServerOptions WithIdentity() {
  ServerOptions options = TestServer::DefaultOptions();
  options.identity_header = kIdentityHeader;
  return options;
}

std::vector<std::string> Abort(TestServer& server,
                               const std::string& caller,
                               const std::vector<std::string>& ids) {
  grpc::ClientContext context;
  context.AddMetadata(kIdentityHeader, caller);
  v1::AbortRequest request;
  for (const std::string& id : ids) {
    request.add_request_ids(id);
  }
  v1::AbortResponse response;
  REQUIRE(v1::Control::NewStub(server.channel())->Abort(&context, request, &response).ok());
  return {response.request_ids().begin(), response.request_ids().end()};
}

v1::ScoreRequest ScoreOf(const std::string& request_id) {
  v1::ScoreRequest request;
  request.set_text("Once upon a time");
  request.add_continuations()->set_text(" there was");
  request.add_continuations()->set_text(" a fox");
  request.set_request_id(request_id);
  return request;
}

v1::EmbedRequest EmbedOf(const std::string& request_id) {
  v1::EmbedRequest request;
  request.add_inputs()->set_text("a fox");
  request.set_request_id(request_id);
  return request;
}

using Names = std::vector<std::string>;

TEST_CASE("a reading call is ended by its id, by its caller alone") {
  TestServer server(WithIdentity());
  ScriptedEngine& engine = server.ServeScripted();
  const bool scores = GENERATE(true, false);
  Call call = scores ? Call(server, "ann", &v1::Inference::Stub::Score, ScoreOf("mine"))
                     : Call(server, "ann", &v1::Inference::Stub::Embed, EmbedOf("mine"));
  const uint64_t first = engine.AwaitRequest();
  CHECK(Abort(server, "bob", {"mine"}).empty());
  CHECK(Abort(server, "ann", {"other"}).empty());
  CHECK_FALSE(engine.is_cancelled(first));
  CHECK(Abort(server, "ann", {"other", "mine"}) == Names{"mine"});
  CHECK(Abort(server, "ann", {"mine"}) == Names{"mine"});  // it still lives
  for (uint64_t id = first; id < first + (scores ? 2 : 1); ++id) {
    engine.AwaitCancel(id);
    engine.SayFailed(id, absl::CancelledError("cancelled"));
  }
  const grpc::Status status = call.Status();
  CHECK(status.error_code() == grpc::StatusCode::CANCELLED);
  CHECK(status.error_message() == "aborted by Control.Abort");
  CHECK(Abort(server, "ann", {"mine"}).empty());
}

TEST_CASE("an id names one request of a caller, whatever it asks for") {
  TestServer server(WithIdentity());
  ScriptedEngine& engine = server.ServeScripted();
  Call first(server, "ann", &v1::Inference::Stub::Score, ScoreOf("mine"));
  const uint64_t id = engine.AwaitRequest();
  Call same(server, "ann", &v1::Inference::Stub::Embed, EmbedOf("mine"));
  const grpc::Status taken = same.Status();
  CHECK(taken.error_code() == grpc::StatusCode::ALREADY_EXISTS);
  CHECK(taken.error_message() == "request_id: \"mine\" is that of a request that is live or kept");
  v1::GenerateRequest generate = TextRequest("a", 1);
  generate.set_request_id("mine");
  grpc::ClientContext context;
  context.AddMetadata(kIdentityHeader, "ann");
  const auto stub = v1::Inference::NewStub(server.channel());
  const auto reader = stub->Generate(&context, generate);
  CHECK(ReadAll(*reader).status.error_code() == grpc::StatusCode::ALREADY_EXISTS);
  // Another's, and one without a name, are no hindrance.
  Call stranger(server, "bob", &v1::Inference::Stub::Embed, EmbedOf("mine"));
  const uint64_t second = engine.AwaitRequest(1);
  Call unnamed(server, "ann", &v1::Inference::Stub::Embed, EmbedOf(""));
  const uint64_t third = engine.AwaitRequest(2);
  engine.SayFailed(id, absl::ResourceExhaustedError("full"));
  engine.SayFailed(id + 1, absl::ResourceExhaustedError("full"));
  CHECK(first.Status().error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  // It is free again.
  Call again(server, "ann", &v1::Inference::Stub::Embed, EmbedOf("mine"));
  const uint64_t fourth = engine.AwaitRequest(3);
  for (const uint64_t other : {second, third, fourth}) {
    engine.SayFailed(other, absl::ResourceExhaustedError("full"));
  }
  CHECK(stranger.Status().error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(unnamed.Status().error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(again.Status().error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_CASE("a reading call's id is checked") {
  TestServer server(WithIdentity());
  server.ServeScripted();
  Call score(server, "ann", &v1::Inference::Stub::Score, ScoreOf("a b"));
  CHECK(score.Status().error_message() == "request_id: not 1 to 64 of A-Z a-z 0-9 . _ : -");
  Call embed(server, "ann", &v1::Inference::Stub::Embed, EmbedOf(std::string(65, 'a')));
  CHECK(embed.Status().error_code() == grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace ringserve
