// Where a CUDA backend keeps what it takes for itself: offsets into its one piece of device memory
// and its one piece of pinned memory, as arithmetic on the limits of a step.
#pragma once

#include <cstdint>

#include "engine/backend/backend.h"
#include "engine/backend/cuda_sampling.h"
#include "engine/backend/cuda_staging.h"
#include "kernels/attention_cuda.h"

namespace ringserve {

struct CudaStepMemory {
  CudaStaging::Sizes staging;  // at offset 0 of both
  // Device.
  int64_t attention = 0;
  int64_t matmul = 0;
  int64_t chain = 0;   // counters
  int64_t routes = 0;  // of a mixture of experts
  int64_t sample = 0;
  int64_t feedback = 0;  // [2][staging.max_results] ids
  int64_t device_bytes = 0;
  // Pinned.
  int64_t logits = 0;  // [kHostSampleRows][vocab_size]
  int64_t ids = 0;     // [kHostSampleRows]
  int64_t pinned_bytes = 0;
};

CudaStepMemory PlanCudaSteps(const ModelConfig& config,
                             const StepLimits& limits,
                             const cuda::AttentionDevice& device);

}  // namespace ringserve
