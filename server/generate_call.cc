#include "server/generate_call.h"

#include <utility>

#include <absl/time/time.h>
#include <fmt/format.h>
#include <grpcpp/server_context.h>

#include "server/convert.h"
#include "server/status.h"
#include "server/wire.h"

namespace ringserve {
namespace {

// A reader that lags by this much pauses its sequence: some thousand tokens, or some hundred with
// logprobs.
constexpr int64_t kMaxPendingBytes = 64 << 10;

// A call that ends before it began.
class RefusedCall final : public grpc::ServerWriteReactor<OutgoingBytes> {
 public:
  explicit RefusedCall(const absl::Status& status) { Finish(ToGrpcStatus(status)); }

  void OnDone() override { delete this; }
};

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

absl::StatusOr<std::pair<ServedModel*, ConvertedRequest>> Convert(const grpc::ByteBuffer& bytes,
                                                                  const ModelSet& models) {
  v1::GenerateRequest message;
  RETURN_IF_ERROR(ParseMessage(bytes, message));
  ASSIGN_OR_RETURN(ServedModel * model, models.Find(message.model()));
  if (models.state() == ModelSet::State::kDraining) {
    return absl::UnavailableError("the server is draining");
  }
  ASSIGN_OR_RETURN(ConvertedRequest converted, ConvertRequest(message, *model));
  return std::make_pair(model, std::move(converted));
}

}  // namespace

grpc::ServerWriteReactor<OutgoingBytes>* GenerateCall::Start(
    grpc::CallbackServerContext& context,
    const grpc::ByteBuffer& request,
    const ModelSet& models,
    StreamPump& pump,
    CallGate& gate,
    std::shared_ptr<Connection> connection) {
  if (gate.open.fetch_add(1) >= gate.max_calls) {
    gate.open.fetch_sub(1);
    return new RefusedCall(absl::ResourceExhaustedError(
        fmt::format("{} calls are open, the most that this server takes", gate.max_calls)));
  }
  auto converted = Convert(request, models);
  if (!converted.ok()) {
    gate.open.fetch_sub(1);
    return new RefusedCall(converted.status());
  }
  ServedModel& model = *converted->first;
  GenerateRequest& engine_request = converted->second.request;
  auto* call = new GenerateCall(
      model, std::move(converted->second.stream), pump, gate, std::move(connection));
  const uint64_t request_id = pump.Register(*call);
  call->request_id_ = request_id;
  {
    absl::MutexLock lock(&call->mutex_);
    call->buffer_.set_request_id(request_id);
  }
  engine_request.request_id = request_id;
  engine_request.deadline = DeadlineOf(context);
  const absl::Status submitted = model.engine->Submit(std::move(engine_request));
  if (!submitted.ok()) {
    pump.Unregister(request_id);
    call->Finish(ToGrpcStatus(submitted));
  }
  return call;  // even if its last event is out already: OnDone comes after this returns
}

GenerateCall::GenerateCall(ServedModel& model,
                           StreamOptions options,
                           StreamPump& pump,
                           CallGate& gate,
                           std::shared_ptr<Connection> connection)
    : pump_(pump),
      gate_(gate),
      engine_(*model.engine),
      connection_(std::move(connection)),
      buffer_(*model.tokenizer, std::move(options)) {}

GenerateCall::~GenerateCall() {
  gate_.open.fetch_sub(1);
}

void GenerateCall::Push(TokenEvent&& event) {
  absl::MutexLock lock(&mutex_);
  buffer_.Push(std::move(event));
  if (broken_) {
    buffer_.Drop();
  }
}

void GenerateCall::Flush() {
  mutex_.Lock();
  sealed_ = buffer_.final_status().has_value();
  Advance();
}

void GenerateCall::OnWriteDone(bool ok) {
  pump_.AwaitFlush();
  if (!ok) {
    engine_.Cancel(request_id_);
  }
  mutex_.Lock();
  writing_ = false;
  if (!ok) {
    broken_ = true;
    buffer_.Drop();
  }
  Advance();
}

void GenerateCall::OnCancel() {
  // The final event that follows finishes the call; if it is out already the engine knows no such
  // request.
  engine_.Cancel(request_id_);
}

void GenerateCall::OnDone() {
  delete this;
}

void GenerateCall::Advance() {
  if (writing_) {
    if (!paused_ && !sealed_ && buffer_.pending_bytes() > kMaxPendingBytes) {
      paused_ = true;
      engine_.SetPaused(request_id_, true);
    }
    mutex_.Unlock();
    return;
  }
  const v1::GenerateEvent* event = buffer_.Take();
  if (event == nullptr) {
    const bool finish = sealed_;
    const absl::Status status = finish ? *buffer_.final_status() : absl::OkStatus();
    mutex_.Unlock();
    if (finish) {
      Finish(ToGrpcStatus(status));
    }
    return;
  }
  message_.Serialize(*event);
  writing_ = true;
  if (paused_ && buffer_.empty()) {
    paused_ = false;
    engine_.SetPaused(request_id_, false);
  }
  const bool last = sealed_ && buffer_.empty() && buffer_.final_status()->ok();
  mutex_.Unlock();
  if (last) {
    StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    StartWrite(&message_);
  }
}

}  // namespace ringserve
