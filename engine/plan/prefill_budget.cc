#include "engine/plan/prefill_budget.h"

#include <algorithm>
#include <cmath>

namespace ringserve {
namespace {

// Weight of the newest step in what a row costs.
constexpr double kNewest = 0.25;
// A step that takes longer may have been disturbed, and counts as so much.
constexpr double kMaxDisturbance = 1.25;
// Keys to which a row may be as dear as one that sees none.
constexpr double kFreeKeys = 1024;
// Share of a step that its rows of prompts take at least: decoding was not measured beside them.
constexpr double kLeastShare = 0.05;
// Steps that are shorter, in parts of the gap, do not tell how much longer a full one may take.
constexpr double kTellingShare = 0.25;
// What is reckoned with before steps have told, and at least and at most later: a machine that is
// disturbed more keeps no bound at a price that is worth it.
constexpr double kFirstMargin = 1.2;
constexpr double kLeastMargin = 1.05;
constexpr double kMostMargin = 2;
// One step in a hundred may take so many times the gap.
constexpr double kMostOver = 1.05;

}  // namespace

PrefillBudget::PrefillBudget(int32_t prefill_size, int32_t max_gap_ms)
    : prefill_size_(prefill_size), max_gap_ms_(max_gap_ms), margin_(kFirstMargin) {
  excesses_.fill(kFirstMargin * kMostOver);
}

// Attention is all that grows, so that a row costs at most so many times as much as it sees more
// keys. That it sees fewer has to show.
double PrefillBudget::RowMs(int64_t num_keys) const {
  const double growth =
      (static_cast<double>(num_keys) + kFreeKeys) / (static_cast<double>(num_keys_) + kFreeKeys);
  return row_ms_ * std::max(growth, 1.0);
}

int32_t PrefillBudget::Rows(double decode_ms, int64_t num_keys) const {
  const int32_t least = std::min(kMinRows, prefill_size_);
  if (max_gap_ms_ == 0) {
    return prefill_size_;
  }
  if (row_ms_ == 0) {
    return least;
  }
  const double free_ms = std::max(max_gap_ms_ / margin_ - decode_ms, 0.0);
  double rows = free_ms / row_ms_;
  if (static_cast<double>(num_keys) + rows / 2 > static_cast<double>(num_keys_)) {
    // Each row sees one key more than the one before.
    const double growth_ms = row_ms_ / (static_cast<double>(num_keys_) + kFreeKeys);
    const double first_ms = growth_ms * (static_cast<double>(num_keys) + kFreeKeys);
    rows = 2 * free_ms / (first_ms + std::sqrt(first_ms * first_ms + 2 * growth_ms * free_ms));
  }
  return static_cast<int32_t>(
      std::clamp(rows, static_cast<double>(least), static_cast<double>(prefill_size_)));
}

void PrefillBudget::Learn(int64_t num_rows, int64_t num_keys, double decode_ms, double step_ms) {
  if (max_gap_ms_ == 0 || num_rows <= 0 || !(step_ms > 0)) {
    return;
  }
  const auto rows = static_cast<double>(num_rows);
  const double row_ms = std::max(step_ms - decode_ms, kLeastShare * step_ms) / rows;
  if (row_ms_ == 0) {
    row_ms_ = row_ms;
  } else {
    const double expected_ms = RowMs(num_keys);
    const double expected_step_ms = decode_ms + rows * expected_ms;
    if (expected_step_ms > kTellingShare * max_gap_ms_) {
      excesses_[next_excess_++ % kNumExcesses] = step_ms / expected_step_ms;
    }
    // One step that took longer may have been disturbed; two say that rows have become dearer.
    const double least_ms = std::min(row_ms, last_row_ms_);
    const double counted_ms = std::min(row_ms, kMaxDisturbance * expected_ms);
    row_ms_ = std::max(least_ms, expected_ms + kNewest * (counted_ms - expected_ms));
    std::array<double, kNumExcesses> sorted = excesses_;
    constexpr size_t kPlace = kNumExcesses - 1 - kNumExcesses / 100;
    std::nth_element(sorted.begin(), sorted.begin() + kPlace, sorted.end());
    margin_ = std::clamp(sorted[kPlace] / kMostOver, kLeastMargin, kMostMargin);
  }
  last_row_ms_ = row_ms;
  num_keys_ = num_keys;
}

}  // namespace ringserve
