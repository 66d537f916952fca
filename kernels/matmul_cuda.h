// Matrix product with a weight on a CUDA device: matmul.h's meaning, float32 accumulation in k16
// order by the tensor cores for every row count, so that a row's result does not depend on how many
// rows there are.
//
// A weight lies row-major, [rows, cols] of bf16 or f16, in one piece, 128-byte aligned; cols is
// even, and a multiple of 8 if it is to be fast. `x` and `out` are 16-byte aligned. All pointers
// are device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include <cuda_runtime.h>

#include "kernels/matmul.h"

namespace ringserve::cuda {

enum class MatMulKernels {
  kBest,      // what the device can run fastest
  kPortable,  // those for sm_80
};

// out = silu(x G^T) * (x U^T), rounded to the weight's dtype, with weight = [G; U], [2 * ffn_dim,
// cols]. Bits as those of MatMul followed by SwiGlu.
struct GatedMatMulArgs {
  const void* x = nullptr;  // [num_rows, weight.cols]
  Matrix weight;            // rows a multiple of 16, cols of 8
  void* out = nullptr;      // [num_rows, weight.rows / 2]
  int32_t num_rows = 0;
  const float* row_scales = nullptr;  // of both products, as MatMulArgs's
};

// What the launches need to know of a device. Made once at start; launches allocate nothing. One
// thread.
//
// On sm_90 products are launched with programmatic dependent launch: the weight must be complete
// before the kernel that precedes the product in the stream lets its dependents start (by itself it
// does so when it ends). x is waited for.
class MatMulDevice {
 public:
  virtual ~MatMulDevice() = default;

  // Device bytes that Create wants, 256-byte aligned.
  static size_t WorkspaceBytes();
  // `workspace` must outlive the result and be used by one stream at a time.
  [[nodiscard]] static cudaError_t Create(int32_t device,
                                          std::byte* workspace,
                                          std::unique_ptr<MatMulDevice>& made,
                                          MatMulKernels kernels = MatMulKernels::kBest);

  // Enqueues. args.num_rows may be 0.
  [[nodiscard]] virtual cudaError_t Launch(const MatMulArgs& args, cudaStream_t stream) = 0;

  // Whether LaunchGated is there: if not, a product and an activation do the same.
  virtual bool has_gated() const { return false; }

  [[nodiscard]] virtual cudaError_t LaunchGated(const GatedMatMulArgs& /*args*/,
                                                cudaStream_t /*stream*/) {
    return cudaErrorNotSupported;
  }
};

// Null if every requirement holds, else a static sentence that names the first broken one.
[[nodiscard]] const char* CheckMatMulCudaArgs(const MatMulArgs& args);

}  // namespace ringserve::cuda
