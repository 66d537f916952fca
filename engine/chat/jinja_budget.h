// What one rendering may use. Templates come with models, from strangers: an endless loop, a huge
// output or a deep recursion has to end with an error.
#pragma once

#include <cstdint>

#include "engine/base/status.h"

namespace ringserve::jinja {

struct Limits {
  int64_t steps = 5'000'000;               // nodes evaluated, plus one per 64 bytes made
  int64_t live_bytes = int64_t{64} << 20;  // of all strings that exist at a time
  int64_t output_bytes = int64_t{16} << 20;
  int32_t depth = 400;  // of calls, blocks and expressions inside each other, and of values
};

// One rendering, one thread.
class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits) {}

  // RESOURCE_EXHAUSTED once something is used up.
  absl::Status Spend(int64_t steps = 1);
  // Before something of this size is made: RESOURCE_EXHAUSTED if it would be too large.
  absl::Status CheckSize(double bytes) const;
  absl::Status Enter();

  void Leave() { --depth_; }

  void Take(int64_t bytes);

  void Return(int64_t bytes) { live_bytes_ -= bytes; }

  const Limits& limits() const { return limits_; }

 private:
  const Limits limits_;
  int64_t steps_ = 0;
  int64_t live_bytes_ = 0;
  int32_t depth_ = 0;
};

}  // namespace ringserve::jinja
