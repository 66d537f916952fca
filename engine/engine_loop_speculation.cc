// Drafts before a step, and what its steps teach about the price of a row.
#include <algorithm>

#include "engine/engine_loop.h"

namespace ringserve {

absl::Status EngineLoop::DraftTokens() {
  if (parts_.drafter == nullptr) {
    return absl::OkStatus();
  }
  const auto num_decoding = std::count_if(running_.begin(), running_.end(), [](const auto& it) {
    return !it->is_paused() && it->prompt_left() == 0;
  });
  const double row_share =
      row_cost_.Share(std::max<int64_t>(num_decoding, 1), parts_.drafter->token_ms());
  drafts_.clear();
  for (const auto& sequence : running_) {
    if (const std::optional<DraftJob> job = sequence->WantDraft(row_share); job.has_value()) {
      drafts_.push_back(*job);
    }
  }
  if (drafts_.empty()) {
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(parts_.drafter->Draft(drafts_));
  for (const auto& sequence : running_) {
    sequence->CheckDraft();
  }
  return absl::OkStatus();
}

void EngineLoop::TellTokens(std::unique_ptr<Sequence>& sequence,
                            std::span<ScoredToken> results,
                            absl::Time now) {
  counters_.drafted_tokens += static_cast<int64_t>(results.size()) - 1;
  for (ScoredToken& result : results) {
    if (result.token.token_id == kNoToken) {
      FailNoToken(sequence);
      return;
    }
    TellToken(sequence, result, now);
    // The next row follows from a draft that did not hold, or from the last token.
    if (sequence == nullptr || !sequence->ExpectsToken()) {
      return;
    }
  }
}

}  // namespace ringserve
