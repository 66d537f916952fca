// The matrix product of matmul_cuda.h by the tensor copy engine and wgmma, for sm_90a alone; and
// the one that ends in the gated activation. Equal bits for every number of rows.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/matmul_cuda.h"
#include "kernels/matmul_plan_cuda.h"

namespace ringserve::cuda {

struct HopperDevice {
  int32_t num_sms = 0;
  void* encode_tensor_map = nullptr;  // the driver's cuTensorMapEncodeTiled
};

// `found.encode_tensor_map` stays null on a device that is not sm_90.
[[nodiscard]] cudaError_t FindHopperDevice(int32_t device, HopperDevice& found);

// Enqueue, with programmatic dependent launch: the weight must be complete before the kernel that
// precedes this call lets its dependents start. x is waited for. num_rows > 0.
[[nodiscard]] cudaError_t LaunchHopperMatMul(const HopperDevice& device,
                                             const MatMulArgs& args,
                                             cudaStream_t stream,
                                             const matmul::HopperTuning& tuning = {});
[[nodiscard]] cudaError_t LaunchHopperGatedMatMul(const HopperDevice& device,
                                                  const GatedMatMulArgs& args,
                                                  cudaStream_t stream,
                                                  const matmul::HopperTuning& tuning = {});

}  // namespace ringserve::cuda
