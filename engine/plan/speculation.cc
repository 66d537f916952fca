#include "engine/plan/speculation.h"

#include <algorithm>

#include "engine/base/check.h"

namespace ringserve {
namespace {

// Of a step, against the one after it.
constexpr double kStepDecay = 0.98;
// Of a draft, against the next one.
constexpr double kDraftDecay = 0.95;
// Of the newest step with drafts in what a drafted row costs, once there were some.
constexpr double kNewest = 0.1;
// Variance of the sequences of steps, squared, below which times tell nothing of a sequence.
constexpr double kMinVariance = 0.2;
// A step may be disturbed: it counts as at most so many times the usual.
constexpr double kMaxDisturbance = 4;
// The same of a step with drafts, times what was expected.
constexpr double kMaxGrowth = 2;
// A row may cost that much more than was learned and speculation still gains.
constexpr double kMargin = 1.15;
// A row that costs this share can gain next to nothing.
constexpr double kHopeless = 0.85;
// What the wait for the next try is divided by when one held, and multiplied by when not: so uneven
// that drafts which hold half of the time are tried seldom, unless that is worth while.
constexpr int32_t kSooner = 4;
constexpr int32_t kLater = 8;

// How many tokens before `end` are those before the end of the text.
int32_t MatchLength(std::span<const int32_t> text, size_t end) {
  int32_t length = 0;
  while (length < kMaxMatch && static_cast<size_t>(length) < end &&
         text[end - 1 - static_cast<size_t>(length)] ==
             text[text.size() - 1 - static_cast<size_t>(length)]) {
    ++length;
  }
  return length;
}

}  // namespace

void LookUpDraft(std::span<const int32_t> text,
                 int32_t min_match,
                 int32_t max_draft,
                 std::vector<int32_t>& draft) {
  RS_DCHECK(min_match >= 1);
  RS_DCHECK(min_match <= kMaxMatch);
  draft.clear();
  if (text.empty()) {
    return;
  }
  const int32_t last = text.back();
  int32_t best_length = min_match - 1;
  size_t best_end = 0;
  for (size_t end = text.size() - 1; end > 0 && best_length < kMaxMatch; --end) {
    if (text[end - 1] != last) {
      continue;
    }
    const int32_t length = MatchLength(text, end);
    if (length > best_length) {
      best_length = length;
      best_end = end;
    }
  }
  if (best_end == 0) {
    return;
  }
  // Behind the end of the text the draft itself goes on.
  for (size_t at = best_end; draft.size() < static_cast<size_t>(max_draft); ++at) {
    draft.push_back(at < text.size() ? text[at] : draft[at - text.size()]);
  }
}

void RecentText::Add(int32_t token_id) {
  if (token_ids_.size() == 2 * kMinTokens) {
    token_ids_.erase(token_ids_.begin(), token_ids_.end() - kMinTokens);
  }
  token_ids_.push_back(token_id);
}

void RecentText::Add(std::span<const int32_t> token_ids) {
  const size_t skipped = token_ids.size() - std::min(token_ids.size(), kMinTokens);
  if (skipped > 0) {
    token_ids_.clear();
  }
  for (const int32_t token_id : token_ids.subspan(skipped)) {
    Add(token_id);
  }
}

void RowCost::Learn(int64_t num_sequences, int64_t num_drafts, double step_ms) {
  if (num_sequences <= 0 || !(step_ms > 0) || (num_drafts > 0 && count_ == 0)) {
    return;
  }
  const double plain_ms = count_ == 0 ? step_ms : PlainMs(num_sequences);
  if (num_drafts > 0) {
    const auto drafts = static_cast<double>(num_drafts);
    const double most = num_drafted_steps_ == 0
                            ? kMaxDisturbance * plain_ms
                            : kMaxGrowth * (plain_ms + drafts * std::max(row_ms_, 0.0));
    const double added = (std::min(step_ms, most) - plain_ms) / drafts;
    ++num_drafted_steps_;
    num_steps_since_ = 0;
    row_ms_ += std::max(kNewest, 1.0 / static_cast<double>(num_drafted_steps_)) * (added - row_ms_);
    return;
  }
  if (++num_steps_since_ == kForget) {
    num_drafted_steps_ = 0;
    row_ms_ = 0;
  }
  const double ms = std::min(step_ms, kMaxDisturbance * plain_ms);
  const auto sequences = static_cast<double>(num_sequences);
  const auto add = [](double& sum, double value) { sum = kStepDecay * sum + value; };
  add(count_, 1);
  add(sequences_, sequences);
  add(ms_, ms);
  add(squares_, sequences * sequences);
  add(products_, sequences * ms);
  const double variance = count_ * squares_ - sequences_ * sequences_;
  if (variance >= kMinVariance * count_ * count_) {
    slope_ms_ = std::max((count_ * products_ - sequences_ * ms_) / variance, 0.0);
  }
}

double RowCost::PlainMs(int64_t num_sequences) const {
  const double usual = ms_ / count_;
  const double sequences = sequences_ / count_;
  // What a step costs anyway is not below 0.
  const double slope = std::min(slope_ms_, usual / sequences);
  return usual + slope * (static_cast<double>(num_sequences) - sequences);
}

double RowCost::Share(int64_t num_sequences, double draft_ms) const {
  if (count_ == 0) {
    return 1;
  }
  if (num_drafted_steps_ == 0) {
    return kUnknown;
  }
  constexpr double kLeast = 0.01;
  const double own_ms = PlainMs(num_sequences) / static_cast<double>(num_sequences);
  return std::clamp((std::max(row_ms_, 0.0) + draft_ms) / own_ms, kLeast, 1.0);
}

int32_t DraftLength::Get(double row_share, int32_t max_draft) const {
  const double likelihood = Likelihood();
  int32_t length = 0;
  for (double all_hold = likelihood; length < max_draft && all_hold > kMargin * row_share;
       all_hold *= likelihood) {
    ++length;
  }
  const bool may_try = since_try_ >= (row_share < kHopeless ? wait_ : kHopelessWait);
  return length == 0 && may_try ? std::min(max_draft, 1) : length;
}

void DraftLength::Learn(int32_t num_drafted, int32_t num_accepted) {
  ++since_try_;
  if (num_drafted == 0) {
    return;
  }
  since_try_ = 0;
  wait_ = num_accepted > 0 ? std::max(wait_ / kSooner, 1) : std::min(wait_ * kLater, kMaxWait);
  for (int32_t i = 0; i < std::min(num_accepted + 1, num_drafted); ++i) {
    num_held_ = kDraftDecay * num_held_ + (i < num_accepted ? 1 : 0);
    num_tried_ = kDraftDecay * num_tried_ + 1;
  }
}

}  // namespace ringserve
