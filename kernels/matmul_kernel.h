// The inner part of MatMulCpu: one function for each instruction set. Internal to the matmul family
// and its tests.
//
// Every kernel gives an output the same sequence of operations whatever block it is computed in:
// acc = acc + w[k] * x[k] for ascending k (pair by pair in MatMulKernelBf16Dot, 32 by 32 in
// MatMulKernelAmx), from zero, in one lane.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/matmul.h"
#include "kernels/matmul_layout.h"

namespace ringserve {

// Outputs that a block's first output is a multiple of.
inline constexpr int64_t kMatMulSlice = 16;

// Rows of x [first_row, first_row + num_rows) by outputs [first_output, first_output +
// num_outputs), which lie in one panel, or, for MatMulKernelAmx, in kMaxAmxPanels.
struct MatMulBlock {
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t first_output = 0;
  int64_t num_outputs = 0;
  // For MatMulKernelAmx: the rows of x from first_row on in tiles, which more than kAmxTileRows
  // need; else null.
  const std::byte* x_tiles = nullptr;
};

// Asks for weights that are read soon: kBytes of them far ahead of `weights` into the second level
// of caches, since the miss buffers of the first alone do not hold what memory needs to have asked,
// and as many nearer from there into the first. A part of a panel asks for the same part of it. One
// row of bf16 on a Xeon (Emerald Rapids, AMX hidden, two threads) reads 71 % of what plain reading
// gets without, 92 % so, and 89 to 93 % with other distances from 4 to 12 KiB and 1 to 4.
template <int64_t kBytes, int64_t kFarBytes = 6144, int64_t kNearBytes = 3072>
inline void FetchAhead(const void* weights) {
  static_assert(kFarBytes % (kPanelRows * 4) == 0 && kNearBytes % (kPanelRows * 4) == 0);
  const auto* first = static_cast<const std::byte*>(weights);
  for (int64_t line = 0; line < kBytes; line += 64) {
    __builtin_prefetch(first + kFarBytes + line, 0, 2);
    __builtin_prefetch(first + kNearBytes + line, 0, 3);
  }
}

using MatMulKernel = void (*)(const MatMulArgs& args, const MatMulBlock& block);

// Products and sums in float32, for f32 and bf16; the best instruction set that Highway picks.
void MatMulKernelFloat(const MatMulArgs& args, const MatMulBlock& block);

// bf16 only, with vdpbf16ps (x86-64) or BFDOT and BFMMLA (Arm); requires HasBf16Dot(). They take
// subnormal inputs and results as zero and do not round between the two products of a pair and the
// sum the way float32 arithmetic would (to odd, on Arm); both are far below the rounding of the
// inputs.
void MatMulKernelBf16Dot(const MatMulArgs& args, const MatMulBlock& block);

// bf16 only, with Intel's AMX; requires HasAmxBf16(). What it adds up, and how, says amx_inl.h.
void MatMulKernelAmx(const MatMulArgs& args, const MatMulBlock& block);

// Panels that share what a block reads of x.
inline constexpr int64_t kMaxAmxPanels = 4;

// The block's rows of x [kAmxTileRows * tile, + kAmxTileRows) to where they lie in its x_tiles,
// which are AmxTilesBytes() long and 64-byte aligned. A tile of [16 rows][32 of k], filled up with
// zeros, is 1 KiB; two tiles of rows are followed by the next along k, then by the next two of
// rows.
int64_t AmxTilesBytes(int64_t num_rows, int64_t cols);
void PackAmxTile(const MatMulArgs& args, const MatMulBlock& block, int64_t tile, std::byte* to);

// The one that MatMulCpu uses for weights of this dtype.
MatMulKernel ChooseMatMulKernel(DType dtype);
void MatMulWith(MatMulKernel kernel, const MatMulArgs& args, ThreadPool& pool);
void MatMulSwiGluWith(MatMulKernel kernel,
                      const MatMulArgs& product,
                      const SwiGluArgs& activation,
                      ThreadPool& pool);

}  // namespace ringserve
