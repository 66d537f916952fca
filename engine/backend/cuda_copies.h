// Copies between device and pinned memory beside the steps: one stream for each direction, so that
// blocks move to the host and back while others decode. The order that Backend promises is kept
// where it can be seen: a copy waits for the steps before it and for copies of the same bytes, and
// a step waits for the copies of the blocks that it touches, and for no others.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "engine/backend/cuda_graph.h"
#include "engine/backend/cuda_resources.h"
#include "engine/base/status.h"
#include "kernels/kv_view.h"
#include "kernels/tile_plan.h"

namespace ringserve {

class CudaCopies {
 public:
  static absl::StatusOr<CudaCopies> Create();

  // True if one of the two is pinned memory and the other device memory.
  static bool Fits(const std::byte* to, const std::byte* from);

  // Enqueues a copy that Fits; `steps` is the stream of all else.
  absl::Status Add(std::byte* to, const std::byte* from, size_t bytes, const CudaStream& steps);

  // Forgets the copies that have run. Not while this thread captures a stream, which asking would
  // break.
  void Forget();

  // Whether there are copies that may not have run, as far as Forget knows.
  bool is_busy() const { return !copies_.empty(); }

  // Lets `stream` wait for the copies that touch the bytes.
  absl::Status Join(const CudaStream& stream, const std::byte* data, size_t bytes);

  // The same for blocks of a pool. Launches what `graph` has captured first, if there is a copy to
  // wait for: a graph cannot wait for what is outside it.
  absl::Status Join(const CudaStream& stream,
                    const KvView& pool,
                    std::span<const BlockEntry> blocks,
                    CudaGraph& graph);

  // Blocks until all have run.
  absl::Status Await();

 private:
  struct Copy {
    const std::byte* to = nullptr;
    const std::byte* from = nullptr;
    size_t bytes = 0;
    size_t event = 0;      // in events_
    size_t direction = 0;  // in streams_
  };

  // More than that in flight wait for the oldest: memory for them is set aside at start.
  static constexpr size_t kMaxCopies = 256;

  std::array<CudaStream, 2> streams_;  // to the device, to the host
  std::array<CudaEvent, kMaxCopies> events_;
  CudaEvent steps_so_far_;
  std::deque<Copy> copies_;  // that may still run, oldest first
  size_t next_event_ = 0;
  std::vector<std::pair<int64_t, size_t>> moving_;  // block and event, of one Join
};

}  // namespace ringserve
