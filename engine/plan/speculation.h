// Speculative decoding, the pure part: which tokens a text may go on with, how many of them are
// worth a row, and what a row costs. What is drafted never changes an answer, only its speed: every
// row of a step is sampled with its own noise, and a draft counts only if it is what was sampled
// (prompt lookup: Saxena 2023; verification in one step: Leviathan et al. 2023, here without
// rejection sampling, because noise is a function of seed, position and token).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace ringserve {

// Replaces `draft` by what followed the last earlier place where the text read as it does at its
// end: of the places whose last min(kMaxMatch, length) tokens agree the longest, the latest, if at
// least `min_match` agree. A text that repeats itself is continued for as long as is wanted.
// O(text.size()). Requires min_match in [1, kMaxMatch], max_draft >= 1.
inline constexpr int32_t kMaxMatch = 8;
void LookUpDraft(std::span<const int32_t> text,
                 int32_t min_match,
                 int32_t max_draft,
                 std::vector<int32_t>& draft);

// The end of a text: at least its last kMinTokens tokens, in memory that does not grow.
class RecentText {
 public:
  static constexpr size_t kMinTokens = 2048;

  void Add(int32_t token_id);
  void Add(std::span<const int32_t> token_ids);

  std::span<const int32_t> token_ids() const { return token_ids_; }

 private:
  std::vector<int32_t> token_ids_;
};

// What a row for a drafted token costs, in parts of what a sequence's own row costs in a step
// without drafts, its share of all that a step does included: 1 where rows are all that a step
// costs, near 0 where the weights must be read for one row as for ten. Learned from the steps that
// decode: a line through the times of those without drafts over their sequences, and what drafts
// add to it; that is forgotten when no step has had drafts for long, or one disturbed measurement
// would end all drafting.
class RowCost {
 public:
  void Learn(int64_t num_sequences, int64_t num_drafts, double step_ms);

  // In a step of `num_sequences` >= 1, in (0, 1], where drafting the token costs `draft_ms` too; 1
  // before a step without drafts was seen; kUnknown as long as one with was not, or not in the last
  // kForget steps.
  double Share(int64_t num_sequences, double draft_ms = 0) const;

  static constexpr double kUnknown = 0.25;
  static constexpr int64_t kForget = 512;  // steps without drafts

  // Of a step without drafts; 0 before one was seen.
  double StepMs(int64_t num_sequences) const {
    return count_ == 0 ? 0 : std::max(PlainMs(num_sequences), 0.0);
  }

 private:
  // Of a step without drafts. Requires that one was seen.
  double PlainMs(int64_t num_sequences) const;

  // Sums over steps without drafts, older ones less, of 1, sequences, time, sequences squared and
  // sequences times time.
  double count_ = 0, sequences_ = 0, ms_ = 0, squares_ = 0, products_ = 0;
  double slope_ms_ = 0;  // of one sequence; 0 as long as it cannot be told
  double row_ms_ = 0;    // of a drafted token
  int64_t num_drafted_steps_ = 0;
  int64_t num_steps_since_ = 0;  // the last one with drafts
};

// How many tokens are worth drafting for one sequence, from how many of its drafts held: as many as
// are more likely to hold than their row costs. Where that is none, one is tried now and then, so
// that a text that begins to repeat itself is noticed; the tries cost at most one row in kMaxWait,
// or in kHopelessWait where a row costs so much that next to nothing can be gained.
class DraftLength {
 public:
  // In [0, max_draft]. `row_share` as RowCost::Share says.
  int32_t Get(double row_share, int32_t max_draft) const;
  // Of `num_drafted` tokens the first `num_accepted` held. 0 drafted: a token was made without.
  void Learn(int32_t num_drafted, int32_t num_accepted);

  static constexpr int32_t kMaxWait = 64;
  static constexpr int32_t kHopelessWait = 512;

 private:
  double Likelihood() const { return (num_held_ + kPriorHeld) / (num_tried_ + kPriorTried); }

  static constexpr double kPriorHeld = 1;
  static constexpr double kPriorTried = 2;

  double num_held_ = 0;   // drafts, older ones less
  double num_tried_ = 0;  // up to the first that did not hold
  int32_t wait_ = 1;      // tokens between two tries
  int32_t since_try_ = 0;
};

}  // namespace ringserve
