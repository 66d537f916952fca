// The traffic of steps between host and device: arrays that the host made go up in one piece per
// step, fetched by a kernel so that they do not queue behind the copies of blocks; sampled tokens
// come down by the device's own writes into pinned memory. A few steps may be under way at once;
// each has a slot of pinned memory of its own, and all share one piece of device memory, since the
// stream runs them one after the other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/backend/cuda_resources.h"
#include "engine/base/status.h"
#include "kernels/sample_cuda.h"

namespace ringserve {

class CudaStaging {
 public:
  static constexpr int32_t kNumSlots = 3;

  struct Sizes {
    int64_t upload_bytes = 0;  // of one step
    int64_t max_results = 0;   // of one step

    int64_t device_bytes() const;
    int64_t pinned_bytes() const;
  };

  // The upload bytes that `bytes` take.
  static int64_t PlacedBytes(int64_t bytes);

  // Both memories are 256-byte aligned, as long as `sizes` says, and outlive the staging.
  static absl::StatusOr<CudaStaging> Create(const Sizes& sizes,
                                            std::byte* device,
                                            std::byte* pinned);

  CudaStaging() = default;

  // Begins a step: waits until the device has done with the slot's last use.
  absl::Status Begin();

  // The step's place among the slots; the steps before it have the numbers before it.
  int32_t slot() const { return slot_; }

  struct Place {
    std::byte* host = nullptr;
    std::byte* device = nullptr;
  };

  // Room for an array of the step, to be filled by the caller before Flush.
  absl::StatusOr<Place> Take(size_t bytes);
  // Enqueues the copy of what was taken since the last Flush.
  absl::Status Flush(const CudaStream& stream);

  // Places for results of the sampler, in pinned memory that the device writes.
  struct Results {
    cuda::SampleCudaResult* at = nullptr;
    int32_t first = 0;  // how many the step took before
  };

  absl::StatusOr<Results> TakeResults(size_t count);

  // Marks the end of the step in the stream.
  absl::Status End(const CudaStream& stream);
  // Blocks until the step that ended in `slot` has run.
  absl::Status Await(int32_t slot) const;

 private:
  std::byte* SlotAt(int32_t slot) const { return pinned_ + slot * slot_bytes_; }

  Sizes sizes_;
  std::byte* device_ = nullptr;
  std::byte* pinned_ = nullptr;
  int64_t slot_bytes_ = 0;
  std::array<CudaEvent, kNumSlots> ended_;
  int32_t slot_ = 0;
  int64_t taken_ = 0;    // bytes of the slot
  int64_t flushed_ = 0;  // of these
  int64_t num_results_ = 0;
};

}  // namespace ringserve
