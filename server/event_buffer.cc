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
    : tokenizer_(tokenizer),
      options_(std::move(options)),
      decoder_(tokenizer, options_.stop_strings, !options_.include_special_tokens) {}

void EventBuffer::Push(TokenEvent&& event) {
  RS_CHECK(!final_status_.has_value());
  std::visit(
      [this](const auto& e) {
        using Event = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<Event, SampledTokenEvent>) {
          OnToken(e);
        } else if constexpr (std::is_same_v<Event, AcceptedEvent>) {
          OnAccepted(e);
        } else if constexpr (std::is_same_v<Event, ProgressEvent>) {
          OnProgress(e);
        } else if constexpr (std::is_same_v<Event, PromptLogprobsEvent>) {
          OnPrompt(e);
        } else if constexpr (std::is_same_v<Event, ContextNoticeEvent>) {
          OnNotice(e);
        } else if constexpr (std::is_same_v<Event, FinishedEvent>) {
          OnFinished(e);
        } else {
          static_assert(std::is_same_v<Event, FailedEvent>);
          final_status_ = e.status;
        }
      },
      event.event);
}

const v1::GenerateEvent* EventBuffer::Take() {
  if (pending_.empty()) {
    return nullptr;
  }
  taken_.Swap(&pending_.front().event);
  pending_bytes_ -= pending_.front().bytes;
  pending_.pop_front();
  taken_.set_sequence(next_sequence_++);
  if (taken_.has_delta()) {
    taken_tokens_ = taken_.delta().first_index() + taken_.delta().token_ids_size();
  }
  return &taken_;
}

void EventBuffer::Drop() {
  pending_.clear();
  pending_bytes_ = 0;
}

v1::GenerateEvent& EventBuffer::Append() {
  pending_.emplace_back();
  Grow(kEventBytes);
  return pending_.back().event;
}

void EventBuffer::Grow(int64_t bytes) {
  pending_.back().bytes += bytes;
  pending_bytes_ += bytes;
}

v1::Delta& EventBuffer::CurrentDelta(int64_t first_index) {
  if (pending_.empty() || !pending_.back().event.has_delta() ||
      pending_.back().bytes >= kMaxEventBytes) {
    v1::GenerateEvent& event = Append();
    if (taken_.has_delta()) {
      event.Swap(&taken_);  // has memory for the next
      event.mutable_delta()->Clear();
    }
    event.mutable_delta()->set_first_index(first_index);
  }
  return *pending_.back().event.mutable_delta();
}

void EventBuffer::OnAccepted(const AcceptedEvent& event) {
  v1::Accepted& accepted = *Append().mutable_accepted();
  accepted.set_request_id(request_id_);
  accepted.set_model(options_.model);
  accepted.set_prompt_tokens(event.prompt_tokens);
  accepted.set_cached_tokens(event.cached_tokens);
  *accepted.mutable_queued() = ToProto(event.queued);
}

void EventBuffer::OnProgress(const ProgressEvent& event) {
  // Only the newest says anything.
  v1::GenerateEvent& out =
      !pending_.empty() && pending_.back().event.has_progress() ? pending_.back().event : Append();
  out.mutable_progress()->set_prefilled_tokens(event.prefilled_tokens);
  out.mutable_progress()->set_prompt_tokens(event.prompt_tokens);
}

void EventBuffer::TellFirstPromptToken() {
  if (!options_.echo || first_prompt_token_told_) {
    return;
  }
  first_prompt_token_told_ = true;
  v1::ScoredToken& token = *Append().mutable_prompt()->add_tokens();
  token.set_token_id(options_.first_prompt_token);
  token.set_token_bytes(
      std::string(tokenizer_.TokenBytes(options_.first_prompt_token, /*skip_special=*/true)));
}

void EventBuffer::OnPrompt(const PromptLogprobsEvent& event) {
  TellFirstPromptToken();
  int64_t index = event.first_index;
  for (const ScoredToken& token : event.tokens) {
    if (pending_.empty() || !pending_.back().event.has_prompt() ||
        pending_.back().bytes >= kMaxEventBytes) {
      Append().mutable_prompt()->set_first_index(index);
    }
    Score(token, *pending_.back().event.mutable_prompt()->add_tokens());
    Grow(BytesOf(token));
    ++index;
  }
}

void EventBuffer::OnToken(const SampledTokenEvent& event) {
  RS_CHECK(event.index == num_tokens_);
  TellFirstPromptToken();
  const int32_t token_id = event.token.token.token_id;
  v1::Delta& delta = CurrentDelta(event.index);
  delta.add_token_ids(token_id);
  int64_t bytes = kTokenBytes;
  if (options_.logprobs) {
    Score(event.token, *delta.add_tokens());
    bytes += BytesOf(event.token);
  }
  const bool is_end =
      std::binary_search(options_.end_token_ids.begin(), options_.end_token_ids.end(), token_id);
  if (!is_end) {
    const std::string text = decoder_.Push(token_id);
    delta.mutable_text()->append(text);
    bytes += static_cast<int64_t>(text.size());
  }
  Grow(bytes);
  ++num_tokens_;
}

void EventBuffer::OnNotice(const ContextNoticeEvent& event) {
  v1::ContextNotice& notice = *Append().mutable_context_notice();
  notice.set_evicted_tokens(event.evicted_tokens);
  notice.set_first_position(event.first_position);
}

void EventBuffer::OnFinished(const FinishedEvent& event) {
  TellFirstPromptToken();
  const std::string rest = decoder_.Finish();
  if (!rest.empty()) {
    CurrentDelta(num_tokens_).mutable_text()->append(rest);
  }
  v1::Finished& finished = *Append().mutable_finished();
  finished.set_reason(ToProto(event.reason));
  if (event.reason == FinishReason::kStopString) {
    finished.set_stop_index(event.stop_index);
  }
  *finished.mutable_usage() = ToProto(event.usage);
  *finished.mutable_timings() = ToProto(event.timings);
  finished.set_session_position(event.session_position);
  finished.set_replay_digest(event.replay_digest);
  final_status_ = absl::OkStatus();
}

void EventBuffer::Score(const ScoredToken& token, v1::ScoredToken& out) {
  out.set_token_id(token.token.token_id);
  out.set_token_bytes(
      std::string(tokenizer_.TokenBytes(token.token.token_id, /*skip_special=*/true)));
  out.set_logprob(token.token.logprob);
  for (const TokenLogprob& alternative : token.alternatives) {
    v1::Alternative& a = *out.add_alternatives();
    a.set_token_id(alternative.token_id);
    a.set_token_bytes(
        std::string(tokenizer_.TokenBytes(alternative.token_id, /*skip_special=*/true)));
    a.set_logprob(alternative.logprob);
  }
}

}  // namespace ringserve
