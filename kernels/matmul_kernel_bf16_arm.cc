// MatMulKernelBf16Dot for Arm CPUs with the bf16 extension (Neoverse V1 and N2, Apple M2 and
// later). BFDOT adds a pair (k, k + 1) to an output; BFMMLA adds two pairs, one after the other, to
// each of 2 x 2 outputs, and is defined as those two BFDOTs: so one row of x, which takes BFDOT,
// has the bits that it has among others. Both kernels go along k in steps of four, with zeros past
// the end.
//
// Both instructions round their sums to odd, which is up to twice as wrong as to nearest. So sums
// of kStretch of k are added up by themselves, where they are small, and then to the total.
#include <hwy/base.h>

#if HWY_ARCH_ARM_A64
#include <algorithm>
#include <arm_neon.h>

#include "kernels/matmul_kernel.h"
#include "kernels/matmul_layout.h"

HWY_PUSH_ATTRIBUTES("arch=armv8.2-a+bf16")

namespace ringserve {
namespace {

constexpr int64_t kStep = 4;      // of k
constexpr int64_t kStretch = 64;  // of k; adding to totals in memory is a tenth of the instructions
constexpr int64_t kLanes = 4;     // outputs of a vector of weights
constexpr int kSliceVectors = static_cast<int>(kMatMulSlice / kLanes);
// One row reads a panel from end to end, a vector of accumulators for each of weights.
constexpr int kPanelVectors = static_cast<int>(kPanelRows / kLanes);
// 3 pairs of rows x 8 pairs of outputs are 24 of 32 registers; beside them lie 3 of x and 4 of
// weights, before and after they are paired.
constexpr int64_t kRows = 6;

// In place of a pair past the end.
alignas(16) constexpr uint16_t kNoPairs[2 * kPanelRows] = {};

// Four of a row of x, zeros past its end.
uint16x4_t LoadTail(const uint16_t* x, int64_t count) {
  uint16_t four[kStep] = {};
  std::copy_n(x, count, four);
  return vld1_u16(four);
}

// One pair of k of kTileVectors vectors of weights.
template <int kPair, int kTileVectors>
HWY_INLINE void AddPair(uint16x4_t x, const uint16_t* weight, float32x4_t (&acc)[kTileVectors]) {
  HWY_UNROLL(16)
  for (int v = 0; v < kTileVectors; ++v) {
    const bfloat16x8_t w = vreinterpretq_bf16_u16(vld1q_u16(weight + v * 2 * kLanes));
    acc[v] = vbfdotq_lane_f32(acc[v], w, vreinterpret_bf16_u16(x), kPair);
  }
}

template <int kCount>
HWY_INLINE void SetZero(float32x4_t (&values)[kCount]) {
  HWY_UNROLL(16)
  for (int i = 0; i < kCount; ++i) {
    values[i] = vdupq_n_f32(0);
  }
}

template <int kCount>
HWY_INLINE void AddTo(float32x4_t (&total)[kCount], const float32x4_t (&values)[kCount]) {
  HWY_UNROLL(16)
  for (int i = 0; i < kCount; ++i) {
    total[i] = vaddq_f32(total[i], values[i]);
  }
}

// Of one stretch.
template <int kTileVectors>
HWY_INLINE void MultiplyRow(const uint16_t* x,
                            const uint16_t* weight,
                            int64_t cols,
                            float32x4_t (&acc)[kTileVectors]) {
  SetZero(acc);
  int64_t k = 0;
  for (; k + kStep <= cols; k += kStep) {
    const uint16x4_t four = vld1_u16(x + k);
    AddPair<0>(four, weight + k * kPanelRows, acc);
    AddPair<1>(four, weight + (k + 2) * kPanelRows, acc);
  }
  if (k < cols) {
    const uint16x4_t four = LoadTail(x + k, cols - k);
    AddPair<0>(four, weight + k * kPanelRows, acc);
    AddPair<1>(four, cols - k > 2 ? weight + (k + 2) * kPanelRows : kNoPairs, acc);
  }
}

// The same four of k of two rows: a 2 x 4 operand.
HWY_INLINE bfloat16x8_t TwoRows(uint16x4_t first, uint16x4_t second) {
  return vreinterpretq_bf16_u16(vcombine_u16(first, second));
}

// acc[pair of rows][pair of outputs] are 2 x 2 sums: rows by outputs.
template <int kPairs>
HWY_INLINE void AddFour(const bfloat16x8_t (&x)[kPairs],
                        const uint16_t* pairs,
                        const uint16_t* next_pairs,
                        float32x4_t (&acc)[kPairs][2 * kSliceVectors]) {
  HWY_UNROLL(4)
  for (int v = 0; v < kSliceVectors; ++v) {
    const uint32x4_t w = vreinterpretq_u32_u16(vld1q_u16(pairs + v * 2 * kLanes));
    const uint32x4_t next = vreinterpretq_u32_u16(vld1q_u16(next_pairs + v * 2 * kLanes));
    const bfloat16x8_t lower = vreinterpretq_bf16_u32(vzip1q_u32(w, next));
    const bfloat16x8_t upper = vreinterpretq_bf16_u32(vzip2q_u32(w, next));
    HWY_UNROLL(4)
    for (int p = 0; p < kPairs; ++p) {
      acc[p][2 * v] = vbfmmlaq_f32(acc[p][2 * v], x[p], lower);
      acc[p][2 * v + 1] = vbfmmlaq_f32(acc[p][2 * v + 1], x[p], upper);
    }
  }
}

// Of one stretch. rows[i] is row i of x; the last may be there twice.
template <int kPairs>
HWY_INLINE void MultiplyRows(const uint16_t* const (&rows)[2 * kPairs],
                             const uint16_t* weight,
                             int64_t cols,
                             float32x4_t (&acc)[kPairs][2 * kSliceVectors]) {
  HWY_UNROLL(4)
  for (int p = 0; p < kPairs; ++p) {
    SetZero(acc[p]);
  }
  bfloat16x8_t x[kPairs];
  int64_t k = 0;
  for (; k + kStep <= cols; k += kStep) {
    HWY_UNROLL(4)
    for (int p = 0; p < kPairs; ++p) {
      x[p] = TwoRows(vld1_u16(rows[2 * p] + k), vld1_u16(rows[2 * p + 1] + k));
    }
    AddFour<kPairs>(x, weight + k * kPanelRows, weight + (k + 2) * kPanelRows, acc);
  }
  if (k < cols) {
    const int64_t count = cols - k;
    HWY_UNROLL(4)
    for (int p = 0; p < kPairs; ++p) {
      x[p] = TwoRows(LoadTail(rows[2 * p] + k, count), LoadTail(rows[2 * p + 1] + k, count));
    }
    const uint16_t* pairs = weight + k * kPanelRows;
    AddFour<kPairs>(x, pairs, count > 2 ? pairs + 2 * kPanelRows : kNoPairs, acc);
  }
}

HWY_INLINE void StoreUpTo(float32x4_t value, float* to, int64_t count) {
  if (count >= kLanes) {
    vst1q_f32(to, value);
  } else if (count > 0) {
    float lanes[kLanes];
    vst1q_f32(lanes, value);
    std::copy_n(lanes, count, to);
  }
}

template <int kTileVectors>
HWY_NOINLINE void RowTile(
    const uint16_t* x, const uint16_t* weight, int64_t cols, float* out, int64_t num_outputs) {
  float32x4_t total[kTileVectors];
  float32x4_t acc[kTileVectors];
  SetZero(total);
  for (int64_t k = 0; k < cols; k += kStretch) {
    MultiplyRow(x + k, weight + k * kPanelRows, std::min(kStretch, cols - k), acc);
    AddTo(total, acc);
  }
  HWY_UNROLL(16)
  for (int v = 0; v < kTileVectors; ++v) {
    StoreUpTo(total[v], out + v * kLanes, num_outputs - v * kLanes);
  }
}

// `num_rows` is 2 * kPairs or one less; row r of `out` begins at r * stride.
template <int kPairs>
HWY_NOINLINE void RowsTile(const uint16_t* x,
                           int64_t num_rows,
                           const uint16_t* weight,
                           int64_t cols,
                           float* out,
                           int64_t stride,
                           int64_t num_outputs) {
  const uint16_t* rows[2 * kPairs];
  float32x4_t total[kPairs][2 * kSliceVectors];
  float32x4_t acc[kPairs][2 * kSliceVectors];
  HWY_UNROLL(4)
  for (int p = 0; p < kPairs; ++p) {
    rows[2 * p] = x + 2 * p * cols;
    rows[2 * p + 1] = x + std::min<int64_t>(2 * p + 1, num_rows - 1) * cols;
    SetZero(total[p]);
  }
  for (int64_t k = 0; k < cols; k += kStretch) {
    MultiplyRows<kPairs>(rows, weight + k * kPanelRows, std::min(kStretch, cols - k), acc);
    HWY_UNROLL(4)
    for (int p = 0; p < kPairs; ++p) {
      AddTo(total[p], acc[p]);
      rows[2 * p] += kStretch;
      rows[2 * p + 1] += kStretch;
    }
  }
  HWY_UNROLL(4)
  for (int p = 0; p < kPairs; ++p) {
    float* to = out + 2 * p * stride;
    HWY_UNROLL(4)
    for (int v = 0; v < kSliceVectors; ++v) {
      const float64x2_t lower = vreinterpretq_f64_f32(total[p][2 * v]);
      const float64x2_t upper = vreinterpretq_f64_f32(total[p][2 * v + 1]);
      const int64_t left = num_outputs - v * kLanes;
      StoreUpTo(vreinterpretq_f32_f64(vzip1q_f64(lower, upper)), to + v * kLanes, left);
      if (2 * p + 1 < num_rows) {
        StoreUpTo(vreinterpretq_f32_f64(vzip2q_f64(lower, upper)), to + stride + v * kLanes, left);
      }
    }
  }
}

// All rows of the block by a slice of outputs.
void Slice(const MatMulArgs& args, const MatMulBlock& block, int64_t first_output) {
  const int64_t cols = args.weight.cols;
  const int64_t stride = args.weight.rows;
  const int64_t num_outputs = block.first_output + block.num_outputs - first_output;
  const auto* weight = reinterpret_cast<const uint16_t*>(args.weight.data) +
                       PackedIndex(first_output, 0, cols, DType::kBf16);
  for (int64_t done = 0; done < block.num_rows; done += kRows) {
    const int64_t row = block.first_row + done;
    const int64_t num_rows = std::min(kRows, block.num_rows - done);
    const auto* x = static_cast<const uint16_t*>(args.x) + row * cols;
    float* out = args.out + row * stride + first_output;
    if (num_rows == 1) {
      RowTile<kSliceVectors>(x, weight, cols, out, num_outputs);
    } else if (num_rows == 2) {
      RowsTile<1>(x, num_rows, weight, cols, out, stride, num_outputs);
    } else if (num_rows <= 4) {
      RowsTile<2>(x, num_rows, weight, cols, out, stride, num_outputs);
    } else {
      RowsTile<3>(x, num_rows, weight, cols, out, stride, num_outputs);
    }
  }
}

}  // namespace

void MatMulKernelBf16Dot(const MatMulArgs& args, const MatMulBlock& block) {
  if (block.num_rows == 1 && block.num_outputs > kPanelRows - kMatMulSlice) {
    const int64_t cols = args.weight.cols;
    RowTile<kPanelVectors>(static_cast<const uint16_t*>(args.x) + block.first_row * cols,
                           reinterpret_cast<const uint16_t*>(args.weight.data) +
                               PackedIndex(block.first_output, 0, cols, DType::kBf16),
                           cols,
                           args.out + block.first_row * args.weight.rows + block.first_output,
                           block.num_outputs);
    return;
  }
  for (int64_t done = 0; done < block.num_outputs; done += kMatMulSlice) {
    Slice(args, block, block.first_output + done);
  }
}

}  // namespace ringserve

HWY_POP_ATTRIBUTES

#endif
