#include "server/generate_call.h"

#include <utility>

#include <fmt/format.h>
#include <grpcpp/server_context.h>

#include "server/caller.h"
#include "server/convert.h"
#include "server/generate_stream.h"
#include "server/status.h"

namespace ringserve {
namespace {

// A call that ends before it began.
class RefusedCall final : public GenerateCall::Reactor {
 public:
  explicit RefusedCall(const absl::Status& status) { Finish(ToGrpcStatus(status)); }

  void OnDone() override { delete this; }
};

struct NewStream {
  std::shared_ptr<GenerateStream> stream;
  GenerateRequest request;
};

absl::StatusOr<NewStream> MakeStream(const grpc::CallbackServerContext& context,
                                     const grpc::ByteBuffer& bytes,
                                     const CallServices& services,
                                     std::shared_ptr<Connection> connection) {
  v1::GenerateRequest message;
  RETURN_IF_ERROR(ParseMessage(bytes, message));
  ASSIGN_OR_RETURN(std::string owner, CallerIdentity(context, services.identity_header));
  ASSIGN_OR_RETURN(ServedModel * model, services.models.Find(message.model()));
  if (services.models.state() == ModelSet::State::kDraining) {
    return absl::UnavailableError("the server is draining");
  }
  RETURN_IF_ERROR(model->engine->CheckQueue());  // a refusal waits for no work on the request
  ASSIGN_OR_RETURN(ConvertedRequest converted, ConvertRequest(message, *model));
  converted.request.deadline = DeadlineOf(context);
  converted.request.owner = owner;
  auto stream = std::make_shared<GenerateStream>(
      GenerateStream::Setup{.model = *model,
                            .pump = services.pump,
                            .registry = services.registry,
                            .accounts = services.accounts,
                            .owner = std::move(owner),
                            .request_id = message.request_id(),
                            .resumable = message.resumable(),
                            .keeps_delivered = converted.keeps_delivered,
                            .options = std::move(converted.stream),
                            .connection = std::move(connection)});
  RETURN_IF_ERROR(services.registry.Add(stream));
  return NewStream{std::move(stream), std::move(converted.request)};
}

absl::StatusOr<std::pair<std::shared_ptr<GenerateStream>, uint64_t>> FindStream(
    const grpc::CallbackServerContext& context,
    const grpc::ByteBuffer& bytes,
    const CallServices& services) {
  v1::AttachRequest message;
  RETURN_IF_ERROR(ParseMessage(bytes, message));
  RETURN_IF_ERROR(RefuseUnknownFields(message));
  ASSIGN_OR_RETURN(const std::string owner, CallerIdentity(context, services.identity_header));
  RETURN_IF_ERROR(CheckRequestId(message.request_id()));
  auto stream = services.registry.Find(owner, message.request_id());
  if (stream == nullptr || !stream->resumable()) {
    return absl::NotFoundError(fmt::format(
        "request_id: no resumable request \"{}\" is live or kept", message.request_id()));
  }
  return std::make_pair(std::move(stream), message.sequence());
}

}  // namespace

GenerateCall::Reactor* GenerateCall::Generate(grpc::CallbackServerContext& context,
                                              const grpc::ByteBuffer& request,
                                              const CallServices& services,
                                              std::shared_ptr<Connection> connection) {
  CallPlace place(services.gate);
  if (!place.status().ok()) {
    return new RefusedCall(place.status());
  }
  auto made = MakeStream(context, request, services, std::move(connection));
  if (!made.ok()) {
    return new RefusedCall(made.status());
  }
  auto* call = new GenerateCall(made->stream, services.gate);
  place.Release();
  made->stream->Begin(*call, std::move(made->request));
  return call;  // even if its last event is out already: OnDone comes after this returns
}

GenerateCall::Reactor* GenerateCall::Attach(grpc::CallbackServerContext& context,
                                            const grpc::ByteBuffer& request,
                                            const CallServices& services) {
  CallPlace place(services.gate);
  if (!place.status().ok()) {
    return new RefusedCall(place.status());
  }
  auto found = FindStream(context, request, services);
  if (!found.ok()) {
    return new RefusedCall(found.status());
  }
  auto* call = new GenerateCall(found->first, services.gate);
  place.Release();
  if (absl::Status status = found->first->Attach(*call, found->second); !status.ok()) {
    call->End(status);
  }
  return call;
}

GenerateCall::GenerateCall(std::shared_ptr<GenerateStream> stream, CallGate& gate)
    : stream_(std::move(stream)), gate_(gate) {}

GenerateCall::~GenerateCall() {
  gate_.open.fetch_sub(1);
}

void GenerateCall::Write(const grpc::Slice& bytes, bool last) {
  message_.Set(bytes);
  if (last) {
    StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    StartWrite(&message_);
  }
}

void GenerateCall::End(const absl::Status& status) {
  Finish(ToGrpcStatus(status));
}

void GenerateCall::OnWriteDone(bool ok) {
  stream_->OnWritten(*this, ok);
}

void GenerateCall::OnCancel() {
  stream_->OnCancel(*this);
}

void GenerateCall::OnDone() {
  delete this;
}

}  // namespace ringserve
