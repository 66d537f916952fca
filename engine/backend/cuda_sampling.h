// Sampling of a CUDA backend: rows that need nothing but their logits on the device, the others on
// the host. Either way the ids end on the device too, where the next step's embedding finds them.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cuda_graph.h"
#include "engine/backend/cuda_resources.h"
#include "engine/backend/cuda_staging.h"
#include "engine/sample/sampler.h"
#include "kernels/sample_cuda.h"
#include "kernels/thread_pool.h"

namespace ringserve {

// Rows of logits that come down at once to be sampled on the host.
inline constexpr int32_t kHostSampleRows = 16;

// True if a row needs nothing but its logits and numbers: no bans, biases, penalties or
// alternatives.
bool SamplesOnDevice(const SampleRow& row);

// The row as the kernels read it, without a feedback slot. Requires SamplesOnDevice.
cuda::SampleCudaRow DeviceRow(const SampleRow& row);

// One thread. Borrows all that it is given.
class CudaSampler {
 public:
  struct Memory {
    std::byte* workspace = nullptr;  // device, cuda::SampleWorkspaceBytes
    int32_t* feedback = nullptr;     // device, [2][max_results]
    int64_t max_results = 0;         // of a step
    float* logits = nullptr;         // pinned, [kHostSampleRows][vocab_size]
    int32_t* ids = nullptr;          // pinned, [kHostSampleRows]
  };

  CudaSampler() = default;

  CudaSampler(const Memory& memory, ThreadPool& pool) : memory_(memory), pool_(&pool) {}

  void BeginStep() { ++step_; }

  // Device: the ids that the step before sampled, by their places among its results.
  const int32_t* ids_before() const { return IdsOf(step_ - 1); }

  // What a step runs on.
  struct Step {
    CudaStaging& staging;
    CudaGraph& graph;
    const CudaStream& stream;
  };

  // Enqueues; if a row has to be sampled on the host, waits for the step so far.
  absl::Status Sample(const SampleArgs& args, const Step& step);

  // Fills the results of the step in `slot` of the staging, which has run.
  void Deliver(int32_t slot);

 private:
  // Results on their way into `to`.
  struct Pending {
    const cuda::SampleCudaResult* from = nullptr;
    std::span<ScoredToken> to;
  };

  // Some of a call's rows, and the place of the first among the step's results.
  struct Rows {
    size_t first = 0;
    size_t count = 0;
    int32_t place = 0;
  };

  // Of all of a call's rows.
  struct Places {
    const cuda::SampleCudaRow* rows = nullptr;  // device
    cuda::SampleCudaResult* results = nullptr;  // pinned
  };

  int32_t* IdsOf(int64_t step) const { return memory_.feedback + (step & 1) * memory_.max_results; }

  absl::Status OnDevice(const SampleArgs& args,
                        const Rows& rows,
                        const Places& places,
                        const Step& step);
  absl::Status OnHost(const SampleArgs& args, const Rows& rows, const Step& step);

  Memory memory_;
  ThreadPool* pool_ = nullptr;
  int64_t step_ = 0;
  // Of each slot of the staging.
  std::array<std::vector<Pending>, CudaStaging::kNumSlots> pending_;
};

}  // namespace ringserve
