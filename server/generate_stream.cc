#include "server/generate_stream.h"

#include <algorithm>
#include <array>
#include <sys/random.h>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "engine/base/check.h"
#include "server/convert.h"
#include "server/generate_call.h"
#include "server/wire.h"

namespace ringserve {
namespace {

// A reader that lags by this much pauses its sequence: some thousand tokens, or some hundred with
// logprobs.
constexpr int64_t kMaxPendingBytes = 64 << 10;
// Of what went out of a resumable stream, the newest that many are kept for another reader.
constexpr size_t kMaxKeptBytes = 256 << 10;

// Unguessable: whoever names it may read the stream, if the caller is the same.
std::string MakeRequestId() {
  std::array<uint64_t, 2> bits{};
  RS_CHECK(getrandom(bits.data(), sizeof(bits), 0) == sizeof(bits));
  return fmt::format("{:016x}{:016x}", bits[0], bits[1]);
}

}  // namespace

GenerateStream::GenerateStream(Setup setup)
    : engine_(*setup.model.engine),
      pump_(setup.pump),
      registry_(setup.registry),
      accounts_(setup.accounts),
      owner_(std::move(setup.owner)),
      request_id_(setup.request_id.empty() ? MakeRequestId() : std::move(setup.request_id)),
      resumable_(setup.resumable),
      keeps_delivered_(setup.keeps_delivered),
      num_completions_(setup.options.num_completions),
      connection_(resumable_ ? nullptr : std::move(setup.connection)),
      buffer_(*setup.model.tokenizer, std::move(setup.options)) {
  absl::MutexLock lock(&mutex_);
  buffer_.set_request_id(request_id_);
}

void GenerateStream::Begin(GenerateCall& call, GenerateRequest request) {
  first_engine_id_ = pump_.Register(*this, num_completions_);
  {
    absl::MutexLock lock(&mutex_);
    call_ = &call;
    self_ = shared_from_this();
  }
  NameCompletions(request, first_engine_id_);
  const absl::Status submitted = engine_.Submit(std::move(request));
  if (submitted.ok()) {
    return;
  }
  pump_.Unregister(first_engine_id_, num_completions_);
  std::shared_ptr<GenerateStream> self;
  {
    absl::MutexLock lock(&mutex_);
    call_ = nullptr;
    sealed_ = true;
    self = std::move(self_);
  }
  registry_.Ended(self, /*keep=*/false);
  call.End(submitted);
}

absl::Status GenerateStream::Attach(GenerateCall& call, uint64_t sequence) {
  mutex_.Lock();
  if (given_up_) {
    mutex_.Unlock();
    return absl::NotFoundError(fmt::format("request_id: \"{}\" is being given up", request_id_));
  }
  const uint64_t next = buffer_.next_sequence();
  const uint64_t first = kept_.empty() ? next : kept_.front().sequence;
  if (sequence < first || sequence > next) {
    mutex_.Unlock();
    return absl::OutOfRangeError(
        fmt::format("sequence: {} is not in [{}, {}]", sequence, first, next));
  }
  GenerateCall* const displaced = std::exchange(call_, &call);
  bool finish = false;
  const absl::Status status = absl::AbortedError("the stream was attached to by another call");
  if (displaced != nullptr) {
    finish = !displaced->writing;
    displaced->end_status = status;
  }
  next_sequence_ = sequence;
  ++epoch_;
  if (sealed_) {
    registry_.Schedule(shared_from_this(), epoch_);
  }
  Advance();
  if (finish) {
    displaced->End(status);
  }
  return absl::OkStatus();
}

void GenerateStream::OnWritten(GenerateCall& call, bool ok) {
  pump_.AwaitFlush();
  mutex_.Lock();
  call.writing = false;
  if (ok) {
    delivered_tokens_ = std::max(delivered_tokens_, call.num_tokens);
  }
  if (&call != call_) {
    const absl::Status status = call.end_status;
    mutex_.Unlock();
    call.End(status);
    return;
  }
  if (!ok && resumable_) {
    Detach(call);
    return;
  }
  if (!ok || cancel_when_written_) {
    Cancel();
  }
  if (!ok) {
    muted_ = true;
    buffer_.Drop();
  }
  Advance();
}

void GenerateStream::OnCancel(GenerateCall& call) {
  mutex_.Lock();
  if (&call != call_) {
    mutex_.Unlock();
    return;  // it has been finished, or will be when it is done writing
  }
  if (resumable_) {
    Detach(call);
    return;
  }
  // The final event that follows finishes the call. What is being written was sent or not, and
  // gRPC is about to say which.
  if (keeps_delivered_ && call.writing) {
    cancel_when_written_ = true;
  } else {
    Cancel();
  }
  mutex_.Unlock();
}

void GenerateStream::Detach(GenerateCall& call) {
  call_ = nullptr;
  call.end_status = absl::CancelledError("the call was cancelled; its request goes on");
  const absl::Status status = call.end_status;
  const bool finish = !call.writing;
  ++epoch_;
  registry_.Schedule(shared_from_this(), epoch_);
  PauseIfBehind();
  mutex_.Unlock();
  if (finish) {
    call.End(status);
  }
}

bool GenerateStream::Abort() {
  absl::MutexLock lock(&mutex_);
  if (sealed_ || buffer_.final_status().has_value()) {
    return false;
  }
  aborted_ = true;
  Cancel();
  return true;
}

void GenerateStream::Expire(uint64_t epoch) {
  absl::MutexLock lock(&mutex_);
  if (epoch != epoch_) {
    return;
  }
  given_up_ = call_ == nullptr;
  if (sealed_) {
    registry_.Forget(*this);
  } else {
    Cancel();
  }
}

void GenerateStream::CancelIfUnread() {
  absl::MutexLock lock(&mutex_);
  if (call_ == nullptr && !sealed_) {
    given_up_ = true;
    Cancel();
  }
}

void GenerateStream::Push(TokenEvent&& event) {
  if (const auto* finished = std::get_if<FinishedEvent>(&event.event)) {
    accounts_.Add(owner_, finished->usage);
  } else if (const auto* failed = std::get_if<FailedEvent>(&event.event)) {
    accounts_.Add(owner_, failed->usage);
  }
  const auto index = static_cast<int32_t>(event.request_id - first_engine_id_);
  absl::MutexLock lock(&mutex_);
  const bool had_failed = buffer_.has_failed();
  buffer_.Push(std::move(event), index);
  if (buffer_.final_status().has_value()) {
    accounts_.CountRequest(owner_, buffer_.final_status()->ok());
  } else if (buffer_.has_failed() && !had_failed) {
    Cancel();
  }
  if (muted_) {
    buffer_.Drop();
  }
}

void GenerateStream::Flush() {
  mutex_.Lock();
  sealed_ = buffer_.final_status().has_value();
  std::shared_ptr<GenerateStream> self;
  bool keep = false;
  if (sealed_) {
    self = std::move(self_);
    keep = resumable_ && !given_up_;
    if (keep) {
      registry_.Schedule(self, ++epoch_);
    }
  }
  Advance();
  if (self != nullptr) {
    registry_.Ended(self, keep);
  }
}

int64_t GenerateStream::DeliveredTokens() {
  absl::MutexLock lock(&mutex_);
  muted_ = true;
  buffer_.Drop();
  return delivered_tokens_;
}

void GenerateStream::Cancel() {
  for (int32_t i = 0; i < num_completions_; ++i) {
    engine_.Cancel(first_engine_id_ + static_cast<uint64_t>(i));
  }
}

void GenerateStream::SetPaused(bool paused) {
  paused_ = paused;
  for (int32_t i = 0; i < num_completions_; ++i) {
    engine_.SetPaused(first_engine_id_ + static_cast<uint64_t>(i), paused);
  }
}

void GenerateStream::PauseIfBehind() {
  if (!paused_ && !sealed_ && buffer_.pending_bytes() > kMaxPendingBytes) {
    SetPaused(true);
  }
}

absl::Status GenerateStream::FinalStatus() const {
  const absl::Status status = *buffer_.final_status();
  return aborted_ && status.code() == absl::StatusCode::kCancelled
             ? absl::CancelledError("aborted by Control.Abort")
             : status;
}

void GenerateStream::Keep(const Sent& sent) {
  kept_.push_back(sent);
  kept_bytes_ += sent.bytes.size();
  while (kept_bytes_ > kMaxKeptBytes && kept_.size() > 1) {
    kept_bytes_ -= kept_.front().bytes.size();
    kept_.pop_front();
  }
}

bool GenerateStream::TakeNext(Sent& next) {
  if (next_sequence_ < buffer_.next_sequence()) {
    next = kept_[static_cast<size_t>(next_sequence_ - kept_.front().sequence)];
    ++next_sequence_;
    return true;
  }
  const v1::GenerateEvent* event = buffer_.Take();
  if (event == nullptr) {
    return false;
  }
  next.sequence = event->sequence();
  next.bytes = SerializeToSlice(*event);
  next.num_tokens = buffer_.taken_tokens();
  ++next_sequence_;
  if (resumable_) {
    Keep(next);
  }
  return true;
}

void GenerateStream::Advance() {
  if (call_ == nullptr || call_->writing) {
    PauseIfBehind();
    mutex_.Unlock();
    return;
  }
  GenerateCall& call = *call_;
  Sent next;
  if (!TakeNext(next)) {
    if (!sealed_) {
      mutex_.Unlock();
      return;
    }
    const absl::Status status = FinalStatus();
    call_ = nullptr;
    mutex_.Unlock();
    call.End(status);
    return;
  }
  call.writing = true;
  call.num_tokens = next.num_tokens;
  if (paused_ && buffer_.empty()) {
    SetPaused(false);
  }
  const bool last = sealed_ && buffer_.empty() && next_sequence_ == buffer_.next_sequence() &&
                    buffer_.final_status()->ok();
  if (last) {
    call_ = nullptr;
  }
  mutex_.Unlock();
  call.Write(next.bytes, last);
}

}  // namespace ringserve
