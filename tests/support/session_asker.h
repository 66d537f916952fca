// Sessions over the wire, as one caller asks about them, and the requests of their turns.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ringserve/v1/control.grpc.pb.h"
#include "ringserve/v1/sessions.grpc.pb.h"
#include "tests/support/test_server.h"

namespace ringserve {

inline constexpr char kIdentityHeader[] = "x-caller";

using Ids = std::vector<int32_t>;

// Prompts, as token ids of the embedded model.
inline const Ids kFirst = {345, 678, 901, 234, 567};
inline const Ids kSecond = {1011, 1213, 1415};
inline const Ids kThird = {1617, 1819};

inline EngineConfig ConfigWithSessions() {
  EngineConfig config = SmallFairytaleConfig();
  config.sessions.max_sessions = 64;
  return config;
}

inline v1::GenerateRequest IdsRequest(const Ids& ids, int64_t max_tokens) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
  request.mutable_stopping()->set_max_tokens(max_tokens);
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_sampling()->set_seed(7);
  return request;
}

inline v1::GenerateRequest TurnRequest(const std::string& session,
                                       const Ids& ids,
                                       int64_t max_tokens,
                                       v1::OnCancel on_cancel = v1::ON_CANCEL_UNSPECIFIED) {
  v1::GenerateRequest request = IdsRequest(ids, max_tokens);
  request.mutable_session()->set_id(session);
  request.mutable_session()->set_on_cancel(on_cancel);
  return request;
}

// What Sessions answers to one caller.
class Asker {
 public:
  explicit Asker(TestServer& server, std::string caller = "")
      : stub_(v1::Sessions::NewStub(server.channel())),
        inference_(v1::Inference::NewStub(server.channel())),
        control_(v1::Control::NewStub(server.channel())),
        caller_(std::move(caller)) {}

  template <typename Request, typename Method>
  grpc::Status Ask(const Method& method, const Request& request, v1::Session& out) {
    grpc::ClientContext context;
    AddCaller(context);
    return ((*stub_).*method)(&context, request, &out);
  }

  v1::Session Create(int64_t buffer_size = 0) {
    v1::CreateSessionRequest request;
    request.set_buffer_size(buffer_size);
    v1::Session out;
    const grpc::Status status = Ask(&v1::Sessions::Stub::Create, request, out);
    INFO(status.error_message());
    REQUIRE(status.ok());
    return out;
  }

  v1::Session Get(const std::string& id) {
    v1::GetSessionRequest request;
    request.set_id(id);
    v1::Session out;
    REQUIRE(Ask(&v1::Sessions::Stub::Get, request, out).ok());
    return out;
  }

  // Once its turn has ended.
  v1::Session GetIdle(const std::string& id) {
    v1::Session out = Get(id);
    while (out.busy()) {
      out = Get(id);
    }
    return out;
  }

  grpc::StatusCode Rollback(const std::string& id, std::optional<int64_t> position) {
    v1::RollbackSessionRequest request;
    request.set_id(id);
    if (position.has_value()) {
      request.set_position(*position);
    }
    v1::Session out;
    return Ask(&v1::Sessions::Stub::Rollback, request, out).error_code();
  }

  grpc::StatusCode Close(const std::string& id) {
    v1::CloseSessionRequest request;
    request.set_id(id);
    v1::Session out;
    return Ask(&v1::Sessions::Stub::Close, request, out).error_code();
  }

  Stream Turn(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    AddCaller(context);
    const auto reader = inference_->Generate(&context, request);
    return ReadAll(*reader);
  }

  v1::GetUsageResponse Usage() {
    grpc::ClientContext context;
    AddCaller(context);
    v1::GetUsageResponse out;
    REQUIRE(control_->GetUsage(&context, {}, &out).ok());
    return out;
  }

  // All of the snapshot that came before the end, whose status it was.
  grpc::Status Export(const std::string& id, std::string& out) {
    grpc::ClientContext context;
    AddCaller(context);
    v1::ExportSessionRequest request;
    request.set_id(id);
    const auto reader = stub_->Export(&context, request);
    v1::SnapshotChunk chunk;
    while (reader->Read(&chunk)) {
      REQUIRE(chunk.data().size() <= 1 << 20);
      out += chunk.data();
    }
    return reader->Finish();
  }

  grpc::Status Import(const std::string& bytes, size_t piece_bytes, v1::Session& out) {
    grpc::ClientContext context;
    AddCaller(context);
    const auto writer = stub_->Import(&context, &out);
    for (size_t at = 0; at < bytes.size(); at += piece_bytes) {
      v1::ImportSessionRequest request;
      request.set_data(bytes.substr(at, piece_bytes));
      if (!writer->Write(request)) {
        break;
      }
    }
    writer->WritesDone();
    return writer->Finish();
  }

  std::vector<std::string> List() {
    grpc::ClientContext context;
    AddCaller(context);
    v1::ListSessionsResponse out;
    REQUIRE(stub_->List(&context, {}, &out).ok());
    std::vector<std::string> ids;
    for (const v1::Session& session : out.sessions()) {
      ids.push_back(session.id());
    }
    return ids;
  }

 private:
  void AddCaller(grpc::ClientContext& context) const {
    if (!caller_.empty()) {
      context.AddMetadata(kIdentityHeader, caller_);
    }
  }

  std::unique_ptr<v1::Sessions::Stub> stub_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Control::Stub> control_;
  const std::string caller_;
};

inline Ids Join(Ids ids, const Ids& more) {
  ids.insert(ids.end(), more.begin(), more.end());
  return ids;
}

}  // namespace ringserve
