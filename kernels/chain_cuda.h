// Ops of a step that follow each other with few rows, as one kernel on sm_90a: matrix
// products, gated products and norms, in the order given, each of which may read what those before
// it wrote. Results have the bits of the ops launched one by one.
//
// One op's weights are read while the ops before it still run, so that device memory is never idle
// at the seams: that is what a chain gains over separate launches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

#include <cuda_runtime.h>

#include "kernels/matmul_cuda.h"
#include "kernels/matmul_hopper_cuda.h"
#include "kernels/rmsnorm.h"

namespace ringserve::cuda {

using ChainOp = std::variant<MatMulArgs, GatedMatMulArgs, RmsNormArgs>;

inline constexpr int32_t kMaxChainOps = 8;
inline constexpr int32_t kMaxChainRows = 32;
inline constexpr int32_t kMaxChainNormDim = 8192;

// Of what a chain keeps in device memory, of which the first kChainCounterBytes are zero before the
// first launch and left zero.
inline constexpr size_t kChainCounterBytes = 256;
inline constexpr size_t kChainBytes =
    kChainCounterBytes + size_t{kMaxChainRows} * kMaxChainNormDim / 16 * sizeof(float);

struct ChainTuning {
  // Of shared memory, to be left beside a block of the chain if it can: for one of a kernel
  // launched after it, which then starts under the chain and waits there for its end.
  int32_t room_bytes = 0;
  // For measurements; 0: as the plan sees fit.
  int32_t shared_bytes = 0;
  int32_t max_units = 0;  // of 16 weight rows, a tile
};

// The rows that a chain can have on the current device, which is `device`: kMaxChainRows, or 8
// where the pairs of blocks that more take cannot all run at a time.
[[nodiscard]] cudaError_t FindMaxChainRows(const HopperDevice& device, int32_t& rows);

// Null if the op can be part of a chain, else a static sentence that says why not. All ops of a
// chain have equal num_rows and dtype.
[[nodiscard]] const char* CheckChainOp(const ChainOp& op);

// Enqueues 1 to kMaxChainOps ops, with programmatic dependent launch: the weights of products must
// be complete before the kernel that precedes this call lets its dependents start. Takes every
// multiprocessor of the device, and its blocks wait for each other: only one chain may run on a
// device at a time, and every other kernel there must end without it. num_rows is at most what
// FindMaxChainRows finds. `memory`: kChainBytes. Scales of rows are 16-byte aligned, with room for
// a multiple of four rows. Between two products of a chain a deferred norm (rmsnorm.h) costs no
// time of its own: the first makes it as it ends.
[[nodiscard]] cudaError_t LaunchChain(const HopperDevice& device,
                                      std::span<const ChainOp> ops,
                                      std::byte* memory,
                                      cudaStream_t stream,
                                      const ChainTuning& tuning = {});

}  // namespace ringserve::cuda
