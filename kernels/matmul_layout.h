// How a weight lies in memory for MatMulCpu. Panels of kPanelRows output features follow one
// another; inside a panel k runs slowest, so that a panel is read once from end to end and every
// vector holds neighbouring outputs: no horizontal sums, and one accumulation order along k.
//   f32   [panel][k][row in panel]
//   bf16  [panel][k / 2][row in panel][k % 2]   a pair is one 32-bit lane, as dot instructions want
// Rows past the last and the odd k past the last are zero.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace ringserve {

// Four vectors of 16 lanes: with 6 rows of x, 24 accumulators in the 32 registers of AVX-512.
inline constexpr int64_t kPanelRows = 64;

// Elements from one panel to the next.
constexpr int64_t PanelElements(int64_t cols, DType dtype) {
  return kPanelRows * (dtype == DType::kBf16 ? RoundUp<int64_t>(cols, 2) : cols);
}

// Where weight[row, col] is, in elements.
constexpr int64_t PackedIndex(int64_t row, int64_t col, int64_t cols, DType dtype) {
  const int64_t panel = row / kPanelRows * PanelElements(cols, dtype);
  const int64_t lane = row % kPanelRows;
  return dtype == DType::kBf16 ? panel + (col / 2 * kPanelRows + lane) * 2 + col % 2
                               : panel + col * kPanelRows + lane;
}

}  // namespace ringserve
