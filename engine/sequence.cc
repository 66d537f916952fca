#include "engine/sequence.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "engine/base/check.h"

namespace ringserve {
namespace {

bool NeedsHistory(const SamplingParams& sampling) {
  return sampling.repetition_penalty != 1.0F || sampling.presence_penalty != 0.0F ||
         sampling.frequency_penalty != 0.0F;
}

}  // namespace

int64_t MaxPositions(const GenerateRequest& request) {
  return static_cast<int64_t>(request.prompt.size()) + request.stopping.max_tokens - 1;
}

Sequence::Sequence(QueuedRequest queued,
                   absl::Time now,
                   std::span<const int32_t> eos_token_ids,
                   const SessionShape& shape,
                   BlockPool& pool)
    : request_(std::move(queued.request)),
      arrival_(queued.arrival),
      arrival_time_(queued.arrival_time),
      admitted_time_(now),
      session_(shape, MaxPositions(request_), pool),
      stop_ids_(request_.stopping.stop_token_ids) {
  if (!request_.stopping.ignore_eos) {
    stop_ids_.insert(stop_ids_.end(), eos_token_ids.begin(), eos_token_ids.end());
  }
  std::sort(stop_ids_.begin(), stop_ids_.end());
  if (NeedsHistory(request_.sampling)) {
    history_.emplace().AddPrompt(request_.prompt);
  }
  usage_.prompt_tokens = static_cast<int64_t>(request_.prompt.size());
}

int64_t Sequence::prompt_left() const {
  return std::max<int64_t>(usage_.prompt_tokens - session_.position(), 0);
}

SequenceView Sequence::View() const {
  return {.prompt_left = prompt_left(),
          .max_rows = session_.MaxRows(),
          .arrival = arrival_,
          .last_step = last_step_,
          .priority = request_.priority,
          .is_paused = is_paused_};
}

std::span<const int32_t> Sequence::Advance(const ScheduledRows& rows, int64_t step) {
  last_step_ = step;
  const auto num_rows = static_cast<size_t>(rows.num_rows);
  const std::span<const int32_t> token_ids =
      rows.is_prefill ? std::span<const int32_t>(request_.prompt)
                            .subspan(static_cast<size_t>(session_.position()), num_rows)
                      : std::span<const int32_t>(&next_token_, 1);
  evicted_now_ = session_.Append(
      token_ids, rows.is_prefill ? Session::Phase::kPrefill : Session::Phase::kDecode);
  usage_.evicted_tokens += evicted_now_;
  return token_ids;
}

std::optional<ContextNoticeEvent> Sequence::TakeNotice() {
  if (evicted_now_ == 0) {
    return std::nullopt;
  }
  return ContextNoticeEvent{.evicted_tokens = std::exchange(evicted_now_, 0),
                            .first_position = session_.window_first()};
}

SampleRow Sequence::RowToSample() const {
  SampleRow row;
  row.position = session_.position();
  row.params = &request_.sampling;
  row.history = history_.has_value() ? &*history_ : nullptr;
  if (usage_.completion_tokens < request_.stopping.min_tokens) {
    row.banned = stop_ids_;
  }
  row.num_logprobs = std::max(request_.output.num_logprobs, 0);
  return row;
}

SampleRow Sequence::RowToScore(int64_t position) const {
  SampleRow row;
  row.position = position + 1;
  row.forced_token = request_.prompt[static_cast<size_t>(position) + 1];
  row.num_logprobs = std::max(request_.output.num_logprobs, 0);
  return row;
}

std::optional<FinishReason> Sequence::TakeToken(const ScoredToken& token, absl::Time now) {
  RS_DCHECK(prompt_left() == 0);
  const int32_t token_id = token.token.token_id;
  if (usage_.completion_tokens == 0) {
    first_token_time_ = now;
  }
  ++usage_.completion_tokens;
  next_token_ = token_id;
  digest_.Add(token_id, token.token.logprob);
  if (history_.has_value()) {
    history_->AddOutput(token_id);
  }
  if (IsStopToken(token_id)) {
    return FinishReason::kStopToken;
  }
  StopCondition* condition = request_.stopping.stop_condition.get();
  if (condition != nullptr) {
    const std::optional<int32_t> stop_index = condition->OnToken(token_id);
    if (stop_index.has_value()) {
      stop_index_ = *stop_index;
      return FinishReason::kStopString;
    }
  }
  if (usage_.completion_tokens >= request_.stopping.max_tokens) {
    return FinishReason::kMaxTokens;
  }
  if (session_.MaxRows() == 0) {
    return FinishReason::kContextFull;
  }
  return std::nullopt;
}

AcceptedEvent Sequence::Accepted() const {
  return {.prompt_tokens = usage_.prompt_tokens,
          .cached_tokens = usage_.cached_tokens,
          .queued = admitted_time_ - arrival_time_};
}

FinishedEvent Sequence::Finish(FinishReason reason, absl::Time now) {
  session_.Commit();
  return {.reason = reason,
          .stop_index = stop_index_,
          .usage = usage_,
          .timings = {.queued = admitted_time_ - arrival_time_,
                      .prefill = first_token_time_ - admitted_time_,
                      .decode = now - first_token_time_},
          .session_position = usage_.prompt_tokens + usage_.completion_tokens,
          .replay_digest = digest_.value()};
}

bool Sequence::IsStopToken(int32_t token_id) const {
  return std::binary_search(stop_ids_.begin(), stop_ids_.end(), token_id);
}

}  // namespace ringserve
