// MatMulKernelFloat, for any vector length. bf16 weights are widened on the fly (a pair is one
// 32-bit lane: the even k in its lower half), bf16 rows of x a stretch of K at a time.
#include <algorithm>

#include "kernels/cpu_features.h"
#include "kernels/matmul_kernel.h"
#include "kernels/matmul_layout.h"
#include "kernels/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul_kernel_float.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = HWY_CAPPED(float, 16);
using Words = hn::RebindToUnsigned<Floats>;
using Vector = hn::Vec<Floats>;

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(Floats()));
// Rows x vectors of accumulators: what the register file holds beside weights and a broadcast.
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
constexpr int kRows = 6;  // of 32
constexpr int kVectors = 4;
#elif HWY_ARCH_ARM_A64
constexpr int kRows = 6;  // of 32, 4 lanes each
constexpr int kVectors = 4;
#elif HWY_TARGET == HWY_AVX2
constexpr int kRows = 6;  // of 16
constexpr int kVectors = 2;
#else
constexpr int kRows = 3;
constexpr int kVectors = static_cast<int>(kMatMulSlice / kLanes);
#endif
// One row reads a panel from end to end: memory likes one stream better than strides.
constexpr int kPanelVectors = static_cast<int>(kPanelRows / kLanes);
static_assert(kVectors * kLanes % kMatMulSlice == 0 && kPanelVectors % kVectors == 0);

// Loops over accumulators are unrolled by order: gcc leaves one that stores them (at the end) to a
// later pass, has them in memory until then, and for Arm writes them there in each turn along k.

// Elements of a row of x that are widened at a time: 6 rows fill half of a first-level cache.
constexpr int64_t kStretch = 512;

// acc += w * x for k in [0, count) of float32. kFetches: nobody has read the weights a moment ago.
template <bool kFetches, int kTileRows, int kTileVectors>
HWY_INLINE void Multiply(const float* x,
                         int64_t x_stride,
                         const float* weight,
                         int64_t count,
                         Vector (&acc)[kTileRows][kTileVectors]) {
  const Floats d;
  for (int64_t k = 0; k < count; ++k) {
    if constexpr (kFetches) {
      FetchAhead<kTileVectors * kLanes * 4>(weight + k * kPanelRows);
    }
    Vector w[kTileVectors];
    HWY_UNROLL(16)
    for (int v = 0; v < kTileVectors; ++v) {
      w[v] = hn::LoadU(d, weight + k * kPanelRows + v * kLanes);
    }
    HWY_UNROLL(16)
    for (int r = 0; r < kTileRows; ++r) {
      const Vector factor = hn::Set(d, x[r * x_stride + k]);
      HWY_UNROLL(16)
      for (int v = 0; v < kTileVectors; ++v) {
        acc[r][v] = hn::MulAdd(w[v], factor, acc[r][v]);
      }
    }
  }
}

HWY_INLINE Vector LowerOfPairs(hn::Vec<Words> bits) {
  return hn::BitCast(Floats(), hn::ShiftLeft<16>(bits));
}

HWY_INLINE Vector UpperOfPairs(hn::Vec<Words> bits) {
  return hn::BitCast(Floats(), hn::And(bits, hn::Set(Words(), 0xffff0000U)));
}

HWY_INLINE hn::Vec<Words> LoadPairs(const uint16_t* weight, int vector) {
  return hn::LoadU(Words(), reinterpret_cast<const uint32_t*>(weight) + vector * kLanes);
}

// The same for pairs of bf16, from widened x.
template <bool kFetches, int kTileRows, int kTileVectors>
HWY_INLINE void MultiplyPairs(const float* x,
                              int64_t x_stride,
                              const uint16_t* weight,
                              int64_t count,
                              Vector (&acc)[kTileRows][kTileVectors]) {
  const Floats d;
  for (int64_t k = 0; k < count; k += 2) {
    const uint16_t* pairs = weight + k * kPanelRows;
    if constexpr (kFetches) {
      FetchAhead<kTileVectors * kLanes * 4>(pairs);
    }
    for (int odd = 0; odd < 2; ++odd) {
      Vector w[kTileVectors];
      HWY_UNROLL(16)
      for (int v = 0; v < kTileVectors; ++v) {
        const auto bits = LoadPairs(pairs, v);
        w[v] = odd == 0 ? LowerOfPairs(bits) : UpperOfPairs(bits);
      }
      HWY_UNROLL(16)
      for (int r = 0; r < kTileRows; ++r) {
        const Vector factor = hn::Set(d, x[r * x_stride + k + odd]);
        HWY_UNROLL(16)
        for (int v = 0; v < kTileVectors; ++v) {
          acc[r][v] = hn::MulAdd(w[v], factor, acc[r][v]);
        }
      }
    }
  }
}

// One row, whose accumulators may fill a register file of 32: a vector of weights at a time.
template <bool kFetches, int kTileVectors>
HWY_INLINE void MultiplyPairs(const float* x,
                              int64_t /*x_stride*/,
                              const uint16_t* weight,
                              int64_t count,
                              Vector (&acc)[1][kTileVectors]) {
  const Floats d;
  for (int64_t k = 0; k < count; k += 2) {
    const uint16_t* pairs = weight + k * kPanelRows;
    if constexpr (kFetches) {
      FetchAhead<kTileVectors * kLanes * 4>(pairs);
    }
    const Vector even = hn::Set(d, x[k]);
    const Vector odd = hn::Set(d, x[k + 1]);
    HWY_UNROLL(16)
    for (int v = 0; v < kTileVectors; ++v) {
      const auto bits = LoadPairs(pairs, v);
      acc[0][v] = hn::MulAdd(LowerOfPairs(bits), even, acc[0][v]);
      acc[0][v] = hn::MulAdd(UpperOfPairs(bits), odd, acc[0][v]);
    }
  }
}

template <bool kFetches, int kTileRows, int kTileVectors>
HWY_INLINE void MultiplyAll(const float* x,
                            const float* weight,
                            int64_t cols,
                            Vector (&acc)[kTileRows][kTileVectors]) {
  Multiply<kFetches>(x, cols, weight, cols, acc);
}

template <bool kFetches, int kTileRows, int kTileVectors>
HWY_INLINE void MultiplyAll(const uint16_t* x,
                            const uint16_t* weight,
                            int64_t cols,
                            Vector (&acc)[kTileRows][kTileVectors]) {
  alignas(64) float wide[kTileRows * kStretch];
  for (int64_t first = 0; first < cols; first += kStretch) {
    const int64_t count = std::min(kStretch, cols - first);
    const int64_t padded = RoundUp<int64_t>(count, 2);
    HWY_UNROLL(16)
    for (int r = 0; r < kTileRows; ++r) {
      wide[r * kStretch + padded - 1] = 0;
      for (int64_t k = 0; k < count; ++k) {
        wide[r * kStretch + k] = ToFloat(Bf16{x[r * cols + first + k]});
      }
    }
    MultiplyPairs<kFetches>(wide, kStretch, weight + first * kPanelRows, padded, acc);
  }
}

template <int kTileRows, int kTileVectors, bool kFetches, typename Element>
HWY_NOINLINE void Tile(const Element* x,
                       const Element* weight,
                       int64_t cols,
                       float* out,
                       int64_t stride,
                       int64_t num_outputs) {
  const Floats d;
  Vector acc[kTileRows][kTileVectors];
  HWY_UNROLL(16)
  for (int r = 0; r < kTileRows; ++r) {
    HWY_UNROLL(16)
    for (int v = 0; v < kTileVectors; ++v) {
      acc[r][v] = hn::Zero(d);
    }
  }
  MultiplyAll<kFetches>(x, weight, cols, acc);
  HWY_UNROLL(16)
  for (int r = 0; r < kTileRows; ++r) {
    HWY_UNROLL(16)
    for (int v = 0; v < kTileVectors; ++v) {
      const int64_t left = num_outputs - v * kLanes;
      float* to = out + r * stride + v * kLanes;
      if (left >= kLanes) {
        hn::StoreU(acc[r][v], d, to);
      } else if (left > 0) {
        alignas(64) float lanes[kLanes];
        hn::Store(acc[r][v], d, lanes);
        std::copy_n(lanes, left, to);
      }
    }
  }
}

template <typename Element>
using TileFunction = void (*)(const Element* x,
                              const Element* weight,
                              int64_t cols,
                              float* out,
                              int64_t stride,
                              int64_t num_outputs);

template <int kTileVectors, bool kFetches, typename Element>
constexpr TileFunction<Element> kTiles[] = {
    Tile<1, kTileVectors, kFetches, Element>,
    Tile<2, kTileVectors, kFetches, Element>,
    Tile<3, kTileVectors, kFetches, Element>,
    Tile<HWY_MIN(4, kRows), kTileVectors, kFetches, Element>,
    Tile<HWY_MIN(5, kRows), kTileVectors, kFetches, Element>,
    Tile<HWY_MIN(6, kRows), kTileVectors, kFetches, Element>};
static_assert(kRows <= 6);

// All rows of the block by kTileVectors vectors of outputs from `first_output`.
template <int kTileVectors, typename Element>
void Rows(const MatMulArgs& args, const MatMulBlock& block, int64_t first_output) {
  const int64_t cols = args.weight.cols;
  const int64_t stride = args.weight.rows;
  const int64_t num_outputs = block.first_output + block.num_outputs - first_output;
  const auto* weight = reinterpret_cast<const Element*>(args.weight.data) +
                       PackedIndex(first_output, 0, cols, args.weight.dtype);
  for (int64_t done = 0; done < block.num_rows; done += kRows) {
    const int64_t row = block.first_row + done;
    const int64_t rows = std::min<int64_t>(block.num_rows - done, kRows);
    const bool fetches = done == 0 && FetchesLinesAhead();
    const auto& tiles =
        fetches ? kTiles<kTileVectors, true, Element> : kTiles<kTileVectors, false, Element>;
    tiles[rows - 1](static_cast<const Element*>(args.x) + row * cols,
                    weight,
                    cols,
                    args.out + row * stride + first_output,
                    stride,
                    num_outputs);
  }
}

template <typename Element>
void Block(const MatMulArgs& args, const MatMulBlock& block) {
  const int64_t last = block.first_output + block.num_outputs;
  if (block.num_rows == 1 && block.num_outputs > kPanelRows - kMatMulSlice) {
    Rows<kPanelVectors, Element>(args, block, block.first_output);
    return;
  }
  constexpr int kSliceVectors = static_cast<int>(kMatMulSlice / kLanes);
  for (int64_t output = block.first_output; output < last;) {
    if (last - output > kMatMulSlice && kVectors > kSliceVectors) {
      Rows<kVectors, Element>(args, block, output);
      output += kVectors * kLanes;
    } else {
      Rows<kSliceVectors, Element>(args, block, output);
      output += kMatMulSlice;
    }
  }
}

void MatMulFloat(const MatMulArgs& args, const MatMulBlock& block) {
  if (args.weight.dtype == DType::kBf16) {
    Block<uint16_t>(args, block);
  } else {
    Block<float>(args, block);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace ringserve

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace ringserve {

HWY_EXPORT(MatMulFloat);

void MatMulKernelFloat(const MatMulArgs& args, const MatMulBlock& block) {
  HWY_DYNAMIC_DISPATCH(MatMulFloat)(args, block);
}

}  // namespace ringserve

#endif
