#include "server/event_buffer.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "engine/base/check.h"
#include "server/convert.h"

namespace ringserve {
namespace {

// An event stops growing here: well under the 4 MiB that clients take by default.
constexpr int64_t kMaxEventBytes = 256 << 10;
// What an event, a token and a scored token take in memory and on the wire, about.
constexpr int64_t kEventBytes = 64;
constexpr int64_t kTokenBytes = 8;
constexpr int64_t kScoredTokenBytes = 48;

int64_t BytesOf(const ScoredToken& token) {
  return kScoredTokenBytes * (1 + static_cast<int64_t>(token.alternatives.size()));
}

}  // namespace

EventBuffer::EventBuffer(const Tokenizer& tokenizer, StreamOptions options)
    : tokenizer_(tokenizer), options_(std::move(options)) {
  for (int32_t index = 0; index < options_.num_completions; ++index) {
    completions_.emplace_back(index, tokenizer_, options_);
  }
}

void EventBuffer::Push(TokenEvent&& event, int32_t index) {
  RS_CHECK(!final_status_.has_value());
  Completion& completion = completions_[static_cast<size_t>(index)];
  std::visit(
      [&](const auto& e) {
        using Event = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<Event, FailedEvent>) {
          failure_.Update(e.status);
          OnEnded();
        } else if constexpr (std::is_same_v<Event, FinishedEvent>) {
          OnFinished(completion, e);
          OnEnded();
        } else if (has_failed()) {
          return;
        } else if constexpr (std::is_same_v<Event, SampledTokenEvent>) {
          OnToken(completion, e);
        } else if constexpr (std::is_same_v<Event, AcceptedEvent>) {
          OnAccepted(completion, e);
        } else if constexpr (std::is_same_v<Event, ProgressEvent>) {
          OnProgress(completion, e);
        } else if constexpr (std::is_same_v<Event, PromptLogprobsEvent>) {
          OnPrompt(completion, e);
        } else if constexpr (std::is_same_v<Event, ContextNoticeEvent>) {
          OnNotice(completion, e);
        } else {
          static_assert(std::is_same_v<Event, EmbeddingEvent>);
          RS_CHECK(false);  // completions have none
        }
      },
      event.event);
}

void EventBuffer::OnEnded() {
  if (++num_ended_ == options_.num_completions) {
    final_status_ = failure_;
  }
}

const v1::GenerateEvent* EventBuffer::Take() {
  if (pending_.empty()) {
    return nullptr;
  }
  taken_.Swap(&pending_.front().event);
  pending_bytes_ -= pending_.front().bytes;
  pending_.pop_front();
  ++first_serial_;
  taken_.set_sequence(next_sequence_++);
  if (taken_.has_delta() && taken_.index() == 0) {
    taken_tokens_ = taken_.delta().first_index() + taken_.delta().token_ids_size();
  }
  return &taken_;
}

void EventBuffer::Drop() {
  first_serial_ += static_cast<int64_t>(pending_.size());
  pending_.clear();
  pending_bytes_ = 0;
}

EventBuffer::Pending* EventBuffer::Newest(const Completion& completion) {
  return completion.newest_serial < first_serial_
             ? nullptr
             : &pending_[static_cast<size_t>(completion.newest_serial - first_serial_)];
}

EventBuffer::Pending& EventBuffer::Append(Completion& completion) {
  completion.newest_serial = first_serial_ + static_cast<int64_t>(pending_.size());
  Pending& pending = pending_.emplace_back();
  pending.event.set_index(completion.index);
  Grow(pending, kEventBytes);
  return pending;
}

void EventBuffer::Grow(Pending& pending, int64_t bytes) {
  pending.bytes += bytes;
  pending_bytes_ += bytes;
}

EventBuffer::Pending& EventBuffer::CurrentDelta(Completion& completion) {
  Pending* const newest = Newest(completion);
  if (newest != nullptr && newest->event.has_delta() && newest->bytes < kMaxEventBytes) {
    return *newest;
  }
  Pending& pending = Append(completion);
  if (taken_.has_delta()) {
    pending.event.Swap(&taken_);  // has memory for the next
    pending.event.mutable_delta()->Clear();
    pending.event.set_index(completion.index);
  }
  pending.event.mutable_delta()->set_first_index(completion.num_tokens);
  return pending;
}

void EventBuffer::OnAccepted(Completion& completion, const AcceptedEvent& event) {
  v1::Accepted& accepted = *Append(completion).event.mutable_accepted();
  accepted.set_request_id(request_id_);
  accepted.set_model(options_.model);
  accepted.set_prompt_tokens(event.prompt_tokens);
  accepted.set_cached_tokens(event.cached_tokens);
  *accepted.mutable_queued() = ToProto(event.queued);
}

void EventBuffer::OnProgress(Completion& completion, const ProgressEvent& event) {
  // Only the newest says anything.
  Pending* const newest = Newest(completion);
  Pending& pending =
      newest != nullptr && newest->event.has_progress() ? *newest : Append(completion);
  v1::Progress& progress = *pending.event.mutable_progress();
  progress.set_prefilled_tokens(event.prefilled_tokens);
  progress.set_prompt_tokens(event.prompt_tokens);
}

void EventBuffer::TellFirstPromptToken(Completion& completion) {
  if (!options_.echo || completion.index > 0 || completion.first_prompt_token_told) {
    return;
  }
  completion.first_prompt_token_told = true;
  v1::ScoredToken& token = *Append(completion).event.mutable_prompt()->add_tokens();
  token.set_token_id(options_.first_prompt_token);
  token.set_token_bytes(
      std::string(tokenizer_.TokenBytes(options_.first_prompt_token, /*skip_special=*/true)));
}

void EventBuffer::OnPrompt(Completion& completion, const PromptLogprobsEvent& event) {
  TellFirstPromptToken(completion);
  int64_t index = event.first_index;
  for (const ScoredToken& token : event.tokens) {
    Pending* pending = Newest(completion);
    if (pending == nullptr || !pending->event.has_prompt() || pending->bytes >= kMaxEventBytes) {
      pending = &Append(completion);
      pending->event.mutable_prompt()->set_first_index(index);
    }
    ScoredTokenToProto(
        token, tokenizer_, kMaxLogprobs, *pending->event.mutable_prompt()->add_tokens());
    Grow(*pending, BytesOf(token));
    ++index;
  }
}

void EventBuffer::OnToken(Completion& completion, const SampledTokenEvent& event) {
  RS_CHECK(event.index == completion.num_tokens);
  TellFirstPromptToken(completion);
  const int32_t token_id = event.token.token.token_id;
  Pending& pending = CurrentDelta(completion);
  v1::Delta& delta = *pending.event.mutable_delta();
  delta.add_token_ids(token_id);
  int64_t bytes = kTokenBytes;
  if (options_.logprobs) {
    ScoredTokenToProto(event.token, tokenizer_, kMaxLogprobs, *delta.add_tokens());
    bytes += BytesOf(event.token);
  }
  const bool is_end =
      std::binary_search(options_.end_token_ids.begin(), options_.end_token_ids.end(), token_id);
  if (!is_end) {
    const std::string text = completion.decoder.Push(token_id);
    delta.mutable_text()->append(text);
    bytes += static_cast<int64_t>(text.size());
  }
  Grow(pending, bytes);
  ++completion.num_tokens;
}

void EventBuffer::OnNotice(Completion& completion, const ContextNoticeEvent& event) {
  v1::ContextNotice& notice = *Append(completion).event.mutable_context_notice();
  notice.set_evicted_tokens(event.evicted_tokens);
  notice.set_first_position(event.first_position);
}

void EventBuffer::OnFinished(Completion& completion, const FinishedEvent& event) {
  if (has_failed()) {
    return;
  }
  TellFirstPromptToken(completion);
  const std::string rest = completion.decoder.Finish();
  if (!rest.empty()) {
    CurrentDelta(completion).event.mutable_delta()->mutable_text()->append(rest);
  }
  v1::Finished& finished = *Append(completion).event.mutable_finished();
  finished.set_reason(ToProto(event.reason));
  if (event.reason == FinishReason::kStopString) {
    finished.set_stop_index(event.stop_index);
  }
  *finished.mutable_usage() = ToProto(event.usage);
  *finished.mutable_timings() = ToProto(event.timings);
  finished.set_session_position(event.session_position);
  finished.set_replay_digest(event.replay_digest);
  if (event.constraint_met.has_value()) {
    finished.set_constraint_met(*event.constraint_met);
  }
}

}  // namespace ringserve
