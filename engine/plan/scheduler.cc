#include "engine/plan/scheduler.h"

#include <algorithm>
#include <cstddef>
#include <tuple>

#include "engine/base/check.h"

namespace ringserve {
namespace {

// Of the gap, for what the estimate of a row's cost does not see.
constexpr double kGapShare = 0.85;
// Weight of the newest step in the estimate.
constexpr double kNewest = 0.25;

const SequenceView& At(std::span<const SequenceView> sequences, const ScheduledRows& rows) {
  return sequences[static_cast<size_t>(rows.sequence)];
}

}  // namespace

void PlanStep(std::span<const SequenceView> sequences,
              const StepBudget& budget,
              std::vector<ScheduledRows>& plan) {
  plan.clear();
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (!sequences[i].is_paused) {
      RS_DCHECK(sequences[i].max_rows >= 1);
      plan.push_back({.sequence = static_cast<int32_t>(i),
                      .num_rows = 1,
                      .is_prefill = sequences[i].prompt_left > 0,
                      .is_sampled = true});
    }
  }
  const bool is_crowded = plan.size() > static_cast<size_t>(budget.max_sequences);
  std::sort(plan.begin(), plan.end(), [&](const ScheduledRows& a, const ScheduledRows& b) {
    const SequenceView& x = At(sequences, a);
    const SequenceView& y = At(sequences, b);
    return std::tuple(-x.priority, is_crowded ? x.last_step : 0, x.arrival) <
           std::tuple(-y.priority, is_crowded ? y.last_step : 0, y.arrival);
  });
  int32_t sequences_left = budget.max_sequences;
  int64_t rows_left = budget.max_prefill_rows;
  bool encodes = false;
  std::erase_if(plan, [&](ScheduledRows& rows) {
    const int64_t source_left = At(sequences, rows).source_left;
    if (sequences_left == 0 || (rows.is_prefill && rows_left == 0) ||
        (encodes && source_left > rows_left)) {
      return true;
    }
    --sequences_left;
    if (source_left > 0) {
      encodes = true;
      rows.num_source_rows = static_cast<int32_t>(source_left);
      rows.num_rows = static_cast<int32_t>(At(sequences, rows).prompt_left);
      rows_left = std::max<int64_t>(rows_left - source_left, 0);
      return false;
    }
    if (rows.is_prefill) {
      const SequenceView& view = At(sequences, rows);
      const int64_t num_rows = std::min({view.prompt_left, view.max_rows, rows_left});
      rows_left -= num_rows;
      rows.num_rows = static_cast<int32_t>(num_rows);
      rows.is_sampled = num_rows == view.prompt_left;
    }
    return false;
  });
  for (ScheduledRows& rows : plan) {
    const SequenceView& view = At(sequences, rows);
    if (!rows.is_prefill && view.num_drafts > 0) {
      const int64_t num_drafts = std::min({int64_t{view.num_drafts}, view.max_rows - 1, rows_left});
      rows.num_rows += static_cast<int32_t>(num_drafts);
      rows_left -= num_drafts;
    }
  }
  std::stable_partition(
      plan.begin(), plan.end(), [](const ScheduledRows& rows) { return !rows.is_prefill; });
}

int32_t PrefillBudget::Rows(bool is_anyone_decoding) const {
  const int32_t least = std::min(kMinRows, prefill_size_);
  if (max_gap_ms_ == 0 || !is_anyone_decoding) {
    return prefill_size_;
  }
  if (ms_per_row_ == 0) {
    return least;
  }
  const double rows = kGapShare * max_gap_ms_ / ms_per_row_;
  return static_cast<int32_t>(
      std::clamp(rows, static_cast<double>(least), static_cast<double>(prefill_size_)));
}

void PrefillBudget::Learn(int64_t num_rows, double step_ms) {
  if (num_rows <= 0 || !(step_ms > 0)) {
    return;
  }
  const double now = step_ms / static_cast<double>(num_rows);
  // A row that turns out dearer is believed at once: the bound is what was promised.
  ms_per_row_ = now > ms_per_row_ ? now : (1 - kNewest) * ms_per_row_ + kNewest * now;
}

}  // namespace ringserve
