// What a sequence drafts, and what becomes of drafts: they hold, or their rows are undone.
#include <algorithm>
#include <cstddef>

#include "engine/base/check.h"
#include "engine/sequence.h"

namespace ringserve {

int32_t Sequence::NumDrafts() const {
  return speculation_.has_value() ? static_cast<int32_t>(speculation_->draft.size()) : 0;
}

// Only as far as the window does not move, so that every row can be undone; and no further than the
// last token that may be made, so that no more memory is taken than was admitted.
std::optional<DraftJob> Sequence::WantDraft(double row_share) {
  if (!speculation_.has_value()) {
    return std::nullopt;
  }
  speculation_->draft.clear();
  if (is_paused_ || num_expected_ > 0 || prompt_left() > 0) {
    return std::nullopt;
  }
  const int64_t most = std::min({int64_t{speculation_->max_draft},
                                 request_.stopping.max_tokens - usage_.completion_tokens - 1,
                                 session().MaxRows() - 1});
  const int32_t wanted =
      most < 1 ? 0 : speculation_->length.Get(row_share, static_cast<int32_t>(most));
  if (wanted == 0) {
    return std::nullopt;
  }
  return DraftJob{.request_id = request_.request_id,
                  .text = speculation_->text.token_ids(),
                  .position = session().position() - session().text_start() + 1,
                  .sampling = &request_.sampling,
                  .max_draft = wanted,
                  .draft = &speculation_->draft};
}

void Sequence::CheckDraft() {
  if (!speculation_.has_value() || request_.constraint == nullptr) {
    return;
  }
  std::vector<int32_t>& draft = speculation_->draft;
  std::vector<Allowance>& allowances = speculation_->allowances;
  TokenConstraint& constraint = *request_.constraint;
  allowances.clear();
  for (const int32_t token_id : draft) {
    if (IsStopToken(token_id) || !constraint.Take(token_id)) {
      break;
    }
    allowances.push_back({constraint.Allowed(), constraint.MayEnd()});
  }
  draft.resize(allowances.size());
  constraint.Undo(static_cast<int64_t>(allowances.size()));
}

void Sequence::NoteToken(int32_t token_id) {
  speculation_->text.Add(token_id);
  speculation_->draft.clear();
  if (decode_ids_.size() <= 1) {
    speculation_->length.Learn(0, 0);
  }
}

// The row after this one holds the first draft that is not verified.
void Sequence::VerifyDraft(int32_t token_id) {
  const auto num_drafted = static_cast<int32_t>(decode_ids_.size()) - 1;
  const auto num_accepted = num_drafted - num_unverified_;
  if (decode_ids_[decode_ids_.size() - static_cast<size_t>(num_unverified_)] != token_id) {
    speculation_->length.Learn(num_drafted, num_accepted);
    UndoRows(token_id);
    return;
  }
  ++usage_.accepted_tokens;
  if (--num_unverified_ == 0) {
    speculation_->length.Learn(num_drafted, num_drafted);
  }
}

// The rows launched after the token just taken: what their step makes of them is nobody's.
void Sequence::UndoRows(int32_t token_id) {
  std::vector<BlockCopy> copies;
  mutable_session().Rollback(session().position() - num_expected_, copies);
  RS_CHECK(copies.empty());  // nobody shares what was just written
  next_token_ = token_id;
  num_expected_ = 0;
  num_unverified_ = 0;
}

}  // namespace ringserve
