// How a sequence ends, and what of it stays in its session.
#include <algorithm>
#include <cstddef>

#include "engine/base/check.h"
#include "engine/sequence.h"

namespace ringserve {

AcceptedEvent Sequence::Accepted() const {
  return {.prompt_tokens = usage_.prompt_tokens,
          .cached_tokens = usage_.cached_tokens,
          .queued = admitted_time_ - arrival_time_};
}

FinishedEvent Sequence::Finish(FinishReason reason, absl::Time now) {
  const int64_t before = session().shape().has_source
                             ? usage_.prompt_tokens
                             : start_ + static_cast<int64_t>(rows_.size()) - num_given_;
  mutable_session().Commit();
  has_finished_ = true;
  if (usage_.completion_tokens == 0) {
    first_token_time_ = now;  // and there is none
  }
  if (entry_ != nullptr) {
    KeepTurn(usage_.completion_tokens);
    ++entry_->counters.turns;
    CountUsage();
  }
  return {.reason = reason,
          .stop_index = stop_index_,
          .constraint_met = request_.constraint != nullptr
                                ? std::optional(request_.constraint->MayEnd())
                                : std::nullopt,
          .usage = usage_,
          .timings = {.queued = admitted_time_ - arrival_time_,
                      .prefill = first_token_time_ - admitted_time_,
                      .decode = now - first_token_time_},
          .session_position = before + usage_.completion_tokens,
          .replay_digest = digest_.value()};
}

int64_t Sequence::Interrupt(OnInterrupt policy, int64_t num_delivered) {
  RS_CHECK(entry_ != nullptr);
  // What was overwritten cannot be returned to: then a turn keeps what was delivered.
  if (policy == OnInterrupt::kRollback && !session().CanRollBackTo(start_)) {
    policy = OnInterrupt::kKeepDelivered;
  }
  const int64_t num_kept = policy == OnInterrupt::kRollback ? 0
                           : policy == OnInterrupt::kKeepAll
                               ? usage_.completion_tokens
                               : std::min(num_delivered, usage_.completion_tokens);
  const int64_t end = start_ + static_cast<int64_t>(rows_.size()) + num_kept;
  // More was made since than the local ring can take back: only the whole turn can be.
  const bool is_out_of_reach = num_kept > 0 && session().position() > end &&
                               end < session().rollback_floor() && session().CanRollBackTo(start_);
  if (num_kept > 0 && !is_out_of_reach) {
    KeepTurn(num_kept);
  } else if (policy != OnInterrupt::kKeepAll) {
    UndoTurn();
  } else if (session().position() == start_) {
    entry_->pending_token = pending_;
  } else if (session().position() > known_position()) {
    RollBackTo(known_position());  // a row was launched for a token that could not be chosen
  }
  mutable_session().Commit();
  ++entry_->counters.interrupted_turns;
  CountUsage();
  return entry_->position();
}

// The text ends with the first `num_tokens` of the completion, at least one.
void Sequence::KeepTurn(int64_t num_tokens) {
  const int64_t end = start_ + static_cast<int64_t>(rows_.size()) + num_tokens;
  if (session().position() < end) {
    entry_->pending_token = next_token_;
  } else {
    RollBackTo(end);
  }
}

void Sequence::UndoTurn() {
  RollBackTo(start_);
  if (session().position() == start_) {
    entry_->pending_token = pending_;
  }
}

void Sequence::RollBackTo(int64_t position) {
  std::vector<BlockCopy> copies;
  const int64_t end = session().CanRollBackTo(position) ? position : session().rollback_floor();
  mutable_session().Rollback(end, copies);
  // The block at the turn's start is the session's own since its last turn, and so are later ones.
  RS_CHECK(copies.empty());
}

void Sequence::CountUsage() {
  SessionCounters& counters = entry_->counters;
  counters.prompt_tokens += num_prefilled();
  counters.completion_tokens += usage_.completion_tokens;
  counters.cached_tokens += usage_.cached_tokens;
  counters.reprefilled_tokens += usage_.reprefilled_tokens;
  counters.evicted_tokens += usage_.evicted_tokens;
}

}  // namespace ringserve
