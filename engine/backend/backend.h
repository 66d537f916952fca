// The one interface between the layer loop and the arithmetic: allocate, copy, one call per op.
// Calls take effect in the order made (stream order); results are on the host after Synchronize.
// Used by the engine thread alone. Two implementations: backend_cpu, backend_cuda. Tests add one
// that injects faults.
//
// Pointers in args are device pointers from Allocate (on the CPU, plain memory) unless a field says
// host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/backend/buffer.h"
#include "engine/base/status.h"
#include "engine/model/model_config.h"
#include "engine/request.h"
#include "engine/sample/sampler.h"
#include "kernels/attention.h"
#include "kernels/embed.h"
#include "kernels/matmul.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "kernels/types.h"

namespace ringserve {

struct SampleArgs {
  const float* logits = nullptr;  // [.., vocab_size]
  int32_t vocab_size = 0;
  std::span<const SampleRow> rows;  // host
  std::span<ScoredToken> results;   // host, one per row; valid after Synchronize
};

struct BackendInfo {
  std::string device;   // "cpu", "cuda"
  std::string name;     // what the hardware calls itself
  std::string kernels;  // the instruction sets picked at run time
  int32_t num_threads = 0;
  // Kernels may be given pointers to any host memory where args ask for device memory.
  bool reads_host_memory = false;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual BackendInfo info() const = 0;

  // Every shape and dtype requirement of the kernels, before anything is loaded.
  virtual absl::Status CheckModel(const ModelConfig& config, DType dtype) const = 0;

  virtual absl::StatusOr<Buffer> Allocate(size_t bytes, MemoryKind kind) = 0;
  // Between any two buffers of this backend, or from host memory.
  virtual absl::Status Copy(std::byte* to, const std::byte* from, size_t bytes) = 0;

  // Bytes that PackMatrix needs for a [rows, cols] weight of `dtype`; a multiple of 128.
  virtual size_t MatrixBytes(int64_t rows, int64_t cols, DType dtype) const = 0;
  // Converts the parts, stacked by rows, into `to` (device, 128-byte aligned, MatrixBytes long).
  virtual absl::StatusOr<Matrix> PackMatrix(std::span<const HostTensor> parts,
                                            DType dtype,
                                            std::byte* to) = 0;

  virtual absl::Status Embed(const EmbedArgs& args) = 0;
  virtual absl::Status RmsNorm(const RmsNormArgs& args) = 0;
  virtual absl::Status MatMul(const MatMulArgs& args) = 0;
  virtual absl::Status RopeAngles(const RopeAnglesArgs& args) = 0;
  virtual absl::Status RopeAppend(const RopeAppendArgs& args) = 0;
  virtual absl::Status Attention(const AttentionArgs& args) = 0;
  virtual absl::Status SwiGlu(const SwiGluArgs& args) = 0;
  virtual absl::Status Sample(const SampleArgs& args) = 0;
  virtual absl::Status Synchronize() = 0;
};

}  // namespace ringserve
