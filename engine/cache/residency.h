// Who is where: brings the blocks of a step to the device and sends to the host what was not used
// for longest. Everything moves by copy, a block at a time; nothing is computed again.
//
// A step must not need more blocks than the device pool has. For each sequence that may take part,
// in the order of urgency, TryPin says whether it still fits; then Bring makes it so.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/status.h"
#include "engine/cache/block_pool.h"
#include "engine/cache/kv_memory.h"

namespace ringserve {

// One thread. `pool` and `memory` must outlive it.
class Residency {
 public:
  Residency(BlockPool& pool, KvMemory& memory);

  // Nothing is pinned.
  void BeginStep();
  // True if `blocks` and `num_new` more that are yet to be acquired fit on the device beside what
  // is pinned; they then are. A block that several name counts once. The first of a step always
  // fits: no sequence needs more than the device has.
  bool TryPin(std::span<const int32_t> blocks, const BlockCounts& num_new);
  // All blocks that the step reads or writes, each acquired; those without a place get one, those
  // on the host are copied. Requires that they fit on the device.
  absl::Status Bring(std::span<const int32_t> blocks);

  // Blocks copied since the start.
  int64_t num_spilled() const { return num_spilled_; }

  int64_t num_restored() const { return num_restored_; }

 private:
  absl::Status MakeRoom(BlockGroup group, int64_t num_places);

  BlockPool& pool_;
  KvMemory& memory_;
  int64_t step_ = 0;
  BlockCounts num_pinned_;         // of this step, new ones included
  std::vector<int64_t> pinned_;    // per block: the step that last pinned it
  std::vector<int64_t> last_use_;  // per block: the step that last used it
  std::vector<int32_t> victims_;   // reused
  int64_t num_spilled_ = 0;
  int64_t num_restored_ = 0;
};

}  // namespace ringserve
