// What compiling a constraint may cost. Work is counted, not timed, so that the same constraint is
// taken or refused everywhere.
#pragma once

#include <cstdint>

#include "engine/base/status.h"

namespace ringserve {

class Budget {
 public:
  // The dearest unit known takes 17 ns of a Zen 5, so that this is at most about 40 ms of a core.
  static constexpr int64_t kWork = 2'500'000;
  // Of one automaton of bytes.
  static constexpr int32_t kMaxDfaStates = 30'000;
  static constexpr int32_t kMaxNfaStates = 60'000;

  // INVALID_ARGUMENT once more was spent than there is.
  absl::Status Spend(int64_t work) {
    left_ -= work;
    return left_ >= 0 ? absl::OkStatus() : TooLarge();
  }

  // What was asked for so far, the last that was refused included.
  int64_t spent() const { return kWork - left_; }

  static absl::Status TooLarge() {
    return absl::InvalidArgumentError(
        "too large: compiling it takes more work or memory than the server allows");
  }

 private:
  int64_t left_ = kWork;
};

}  // namespace ringserve
