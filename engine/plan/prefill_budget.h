// How much of a prompt fits in a step while streams are waiting for their next token: learned from
// what steps took. A step is taken to cost what its decode rows cost alone, and so much for each
// row of a prompt; a row costs more the more keys it sees. Machines are disturbed, so the bound is
// kept with what the worst of the last steps took beyond what was expected of them. Pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ringserve {

class PrefillBudget {
 public:
  // `max_gap_ms` 0: no bound, always `prefill_size`.
  PrefillBudget(int32_t prefill_size, int32_t max_gap_ms);

  // Rows for the next step, while someone decodes, which alone takes `decode_ms` (0: not known,
  // then the rows bear it); the first of the rows sees at most `num_keys`. At least kMinRows (or
  // prefill_size), so that prompts always move.
  int32_t Rows(double decode_ms, int64_t num_keys) const;

  // Of a step with `num_rows` rows of prompts, each of which saw `num_keys` on average; its decode
  // rows, or a single one if there were none, would have taken `decode_ms` alone.
  void Learn(int64_t num_rows, int64_t num_keys, double decode_ms, double step_ms);

  static constexpr int32_t kMinRows = 16;

 private:
  static constexpr size_t kNumExcesses = 256;

  double RowMs(int64_t num_keys) const;

  int32_t prefill_size_;
  int32_t max_gap_ms_;
  double row_ms_ = 0;       // of a row that sees num_keys_; 0: nothing learned yet
  double last_row_ms_ = 0;  // by the last step alone
  int64_t num_keys_ = 0;
  std::array<double, kNumExcesses> excesses_;  // times of the last steps, in what was expected
  size_t next_excess_ = 0;
  double margin_;  // what is expected of the next step is taken so many times
};

}  // namespace ringserve
