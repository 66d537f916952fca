#include "server/reading_call.h"

#include <functional>
#include <string>
#include <utility>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include "ringserve/v1/inference.pb.h"
#include "server/call_gate.h"
#include "server/caller.h"
#include "server/convert.h"
#include "server/convert_reading.h"
#include "server/reading.h"
#include "server/status.h"
#include "server/stream_registry.h"
#include "server/wire.h"

namespace ringserve {
namespace {

// What becomes of the parts.
using MakeResponse = std::function<grpc::ByteBuffer(const Reading&)>;

// Owned by itself from its start to OnDone.
class ReadingCall final : public grpc::ServerUnaryReactor, public NamedReading {
 public:
  ReadingCall(EnginePort& engine,
              const CallServices& services,
              grpc::ByteBuffer& response,
              std::string request_id,
              MakeResponse make_response)
      : gate_(services.gate),
        registry_(services.registry),
        request_id_(std::move(request_id)),
        response_(response),
        make_response_(std::move(make_response)),
        reading_({.engine = engine,
                  .pump = services.pump,
                  .accounts = &services.accounts,
                  .on_end = [this](const absl::Status& status) { End(status); }}) {}

  ReadingCall(const ReadingCall&) = delete;
  ReadingCall& operator=(const ReadingCall&) = delete;

  void Begin(GenerateRequest request) {
    owner_ = request.owner;
    if (!request_id_.empty()) {
      if (const absl::Status named = registry_.AddReading(owner_, request_id_, *this);
          !named.ok()) {
        Finish(ToGrpcStatus(named));
        return;
      }
    }
    const absl::Status begun = reading_.Begin(std::move(request));
    if (!begun.ok()) {
      Forget();
      Finish(ToGrpcStatus(begun));
      return;
    }
    const absl::MutexLock lock(&mutex_);  // this lives until the method has returned
    has_begun_ = true;
    if (is_aborted_) {
      reading_.Cancel();
    }
  }

  bool Abort() override {
    const absl::MutexLock lock(&mutex_);
    is_aborted_ = true;
    if (has_begun_) {
      reading_.Cancel();
    }
    return true;  // it is forgotten before it ends
  }

  // The engine frees what the request holds and says so: then the call ends.
  void OnCancel() override { reading_.Cancel(); }

  void OnDone() override { delete this; }

 private:
  ~ReadingCall() override { gate_.open.fetch_sub(1); }

  void Forget() {
    if (!request_id_.empty()) {
      registry_.RemoveReading(owner_, request_id_);
    }
  }

  void End(const absl::Status& status) {
    Forget();
    if (status.ok()) {
      response_ = make_response_(reading_);
    }
    const bool is_aborted = absl::IsCancelled(status) && WasAborted();
    Finish(ToGrpcStatus(is_aborted ? absl::CancelledError("aborted by Control.Abort") : status));
  }

  bool WasAborted() {
    const absl::MutexLock lock(&mutex_);
    return is_aborted_;
  }

  CallGate& gate_;
  StreamRegistry& registry_;
  const std::string request_id_;  // "": it has none
  std::string owner_;
  absl::Mutex mutex_;
  bool has_begun_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_aborted_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer& response_;
  const MakeResponse make_response_;
  Reading reading_;
};

class RefusedCall final : public grpc::ServerUnaryReactor {
 public:
  explicit RefusedCall(const absl::Status& status) { Finish(ToGrpcStatus(status)); }

  void OnDone() override { delete this; }
};

struct Task {
  ServedModel& model;
  GenerateRequest request;
  std::string request_id;
  MakeResponse make_response;
};

// Parses; convert(message, model) -> absl::StatusOr<ConvertedReading>.
template <typename Request, typename Convert, typename ToResponse>
absl::StatusOr<Task> MakeTask(const grpc::CallbackServerContext& context,
                              const grpc::ByteBuffer& bytes,
                              const CallServices& services,
                              const Convert& convert,
                              const ToResponse& to_response) {
  Request message;
  RETURN_IF_ERROR(ParseMessage(bytes, message));
  RETURN_IF_ERROR(RefuseUnknownFields(message));
  if (!message.request_id().empty()) {
    RETURN_IF_ERROR(CheckRequestId(message.request_id()));
  }
  ASSIGN_OR_RETURN(std::string owner, CallerIdentity(context, services.identity_header));
  ASSIGN_OR_RETURN(ServedModel * model, services.models.Find(message.model()));
  if (services.models.state() == ModelSet::State::kDraining) {
    return absl::UnavailableError("the server is draining");
  }
  RETURN_IF_ERROR(model->engine->CheckQueue());  // a refusal waits for no work on the request
  ASSIGN_OR_RETURN(GenerateRequest request, convert(message, *model));
  request.owner = std::move(owner);
  request.deadline = DeadlineOf(context);
  return Task{*model, std::move(request), message.request_id(), to_response(message, *model)};
}

template <typename Request, typename Convert, typename ToResponse>
grpc::ServerUnaryReactor* Run(const grpc::CallbackServerContext& context,
                              const grpc::ByteBuffer& bytes,
                              grpc::ByteBuffer& response,
                              const CallServices& services,
                              const Convert& convert,
                              const ToResponse& to_response) {
  CallPlace place(services.gate);
  if (!place.status().ok()) {
    return new RefusedCall(place.status());
  }
  absl::StatusOr<Task> task = MakeTask<Request>(context, bytes, services, convert, to_response);
  if (!task.ok()) {
    return new RefusedCall(task.status());
  }
  auto* call = new ReadingCall(*task->model.engine,
                               services,
                               response,
                               std::move(task->request_id),
                               std::move(task->make_response));
  place.Release();
  call->Begin(std::move(task->request));
  return call;  // even if it has ended already: OnDone comes after this returns
}

}  // namespace

grpc::ServerUnaryReactor* BeginScore(grpc::CallbackServerContext& context,
                                     const grpc::ByteBuffer& request,
                                     grpc::ByteBuffer& response,
                                     const CallServices& services) {
  const auto to_response = [](const v1::ScoreRequest& in,
                              const ServedModel& model) -> MakeResponse {
    return [&model, count = in.alternatives()](const Reading& reading) {
      return SerializeMessage(ScoreToProto(reading, model, count));
    };
  };
  return Run<v1::ScoreRequest>(context, request, response, services, ConvertScore, to_response);
}

grpc::ServerUnaryReactor* BeginEmbed(grpc::CallbackServerContext& context,
                                     const grpc::ByteBuffer& request,
                                     grpc::ByteBuffer& response,
                                     const CallServices& services) {
  const auto to_response = [](const v1::EmbedRequest&, const ServedModel& model) -> MakeResponse {
    return
        [&model](const Reading& reading) { return SerializeMessage(EmbedToProto(reading, model)); };
  };
  return Run<v1::EmbedRequest>(context, request, response, services, ConvertEmbed, to_response);
}

}  // namespace ringserve
