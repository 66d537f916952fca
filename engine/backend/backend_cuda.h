// The CUDA backend: one GPU, one stream, kernels that run a TilePlan. Weights, activations and keys
// are bf16 or f16. Every product and sum has one order whatever else is in the step, so results are
// equal bits for equal contexts; they are not the CPU backend's bits.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/backend/backend.h"
#include "engine/base/status.h"

namespace ringserve {

enum class CudaKernels {
  kBest,      // what the device can run fastest
  kPortable,  // those for sm_80, on any device; the same bits
};

// num_threads: of the host's part (loading, and sampling what the device cannot); 0: one per core,
// at most 16. FAILED_PRECONDITION if there is no device that it can run on, saying why.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(int32_t num_threads,
                                                         CudaKernels kernels = CudaKernels::kBest);

// The requirements that Backend::CheckModel tells on CUDA; needs no device.
absl::Status CheckCudaModel(const ModelConfig& config, DType dtype);

}  // namespace ringserve
