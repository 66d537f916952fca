#include "engine/plan/scheduler.h"

#include <algorithm>
#include <cstddef>
#include <tuple>

#include "engine/base/check.h"

namespace ringserve {
namespace {

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
      int64_t num_rows = std::min({view.prompt_left, view.max_rows, rows_left});
      const int64_t beyond_tile = (view.position + num_rows) % budget.tile_size;
      if (num_rows == rows_left && num_rows < view.prompt_left && beyond_tile < num_rows) {
        num_rows -= beyond_tile;
        rows_left = num_rows;
      }
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

}  // namespace ringserve
