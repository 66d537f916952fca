// Who takes part in the next step, and with how many rows. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ringserve {

// What the scheduler needs to know of an admitted sequence.
struct SequenceView {
  int64_t prompt_left = 0;  // prompt tokens still to be prefilled; 0: it decodes
  int64_t position = 0;     // of its next row
  int64_t num_keys = 0;     // that its next row sees besides its own
  // Rows of a prompt that an encoder is to read before these, all in one step. Then prompt_left is
  // what the decoder reads of its own, which goes with them.
  int64_t source_left = 0;
  int64_t max_rows = 0;    // the most that its context takes in one step; >= 1 unless it is paused
  int64_t arrival = 0;     // rank in the order of submission; distinct
  int64_t last_step = 0;   // when it last took part
  int32_t priority = 0;    // higher runs first
  int32_t num_drafts = 0;  // rows that it would add to a decode row, to verify drafted tokens
  bool is_paused = false;
};

struct StepBudget {
  int32_t max_sequences = 0;
  int32_t max_prefill_rows = 0;  // of all sequences together
  int32_t tile_size = 1;         // prompts are cut at multiples of it, if the budget reaches one
};

// Either a decode row and those of drafted tokens, all of which are sampled, or a chunk of the
// prompt, whose last row is sampled if no prompt is left after the step.
struct ScheduledRows {
  int32_t sequence = 0;  // index into the views
  int32_t num_rows = 0;
  bool is_prefill = false;
  bool is_sampled = false;
  int32_t num_source_rows = 0;  // an encoder's, read before
};

// Replaces `plan`: decode rows first, then prompt chunks. If more than max_sequences can run, the
// higher priority runs, then who waited longest since its last step. Prompts share the budget by
// priority, then arrival; an encoder's prompt is never cut, so that one may exceed it alone. Drafts
// take what prompts leave of the budget. Nobody unpaused is left out for ever unless higher
// priorities fill every step.
void PlanStep(std::span<const SequenceView> sequences,
              const StepBudget& budget,
              std::vector<ScheduledRows>& plan);

}  // namespace ringserve
