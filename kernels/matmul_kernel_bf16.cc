// MatMulKernelBf16Dot for x86-64. A lane of a weight vector holds the pair (k, k + 1) of one
// output; the same pair of x is broadcast to all lanes.
#include <algorithm>
#include <cstring>
#include <hwy/base.h>

#include "kernels/cpu_features.h"
#include "kernels/matmul_kernel.h"
#include "kernels/matmul_layout.h"

#if HWY_ARCH_X86_64
#include <immintrin.h>

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

// 6 rows x 4 vectors of accumulators, 4 vectors of weights and a broadcast are 29 of 32 registers;
// 97 % of the rate of the bare instruction on Zen 4 (12 x 2: 65 %, 8 x 2: 88 %, 7 x 4: 95 %).
// Blocking K for the caches does not pay: 16 KiB of x per row and a panel stream well from L2.
constexpr int kRows = 6;
constexpr int kVectors = 4;
constexpr int64_t kLanes = 16;

__m512bh Broadcast(const uint16_t* pair) {
  int bits = 0;
  std::memcpy(&bits, pair, sizeof(bits));
  return (__m512bh)_mm512_set1_epi32(bits);
}

// Weights are loaded line after line, which the prefetchers of Zen follow to the speed of reading.
// Asking for lines ahead beside them keeps them from it: with 2 KiB ahead 76 to 91 % of reading,
// with 4 to 16 KiB in the second level 65 to 94, without 96 to 98 (AMD EPYC, Zen 4, 2 threads).
// Intel's need it. kFetches: nobody has read the weights a moment ago.
template <int kTileRows, int kTileVectors, bool kFetches>
void Multiply(const uint16_t* x,
              const uint16_t* weight,
              int64_t cols,
              __m512 (&acc)[kTileRows][kTileVectors]) {
  for (auto& row : acc) {
    for (__m512& sum : row) {
      sum = _mm512_setzero_ps();
    }
  }
  for (int64_t k = 0; k + 1 < cols; k += 2) {
    __m512bh w[kTileVectors];
    if constexpr (kFetches) {
      FetchAhead<kTileVectors * kLanes * 4>(weight + k * kPanelRows);
    }
    for (int v = 0; v < kTileVectors; ++v) {
      w[v] = (__m512bh)_mm512_loadu_si512(weight + k * kPanelRows + v * kLanes * 2);
    }
    for (int r = 0; r < kTileRows; ++r) {
      const __m512bh pair = Broadcast(x + r * cols + k);
      for (int v = 0; v < kTileVectors; ++v) {
        acc[r][v] = _mm512_dpbf16_ps(acc[r][v], w[v], pair);
      }
    }
  }
  if (cols % 2 != 0) {  // the partner of the last k is zero in the weight, and must be in x
    for (int r = 0; r < kTileRows; ++r) {
      const uint16_t last[2] = {x[r * cols + cols - 1], 0};
      for (int v = 0; v < kTileVectors; ++v) {
        const uint16_t* w = weight + (cols - 1) * kPanelRows + v * kLanes * 2;
        acc[r][v] = _mm512_dpbf16_ps(acc[r][v], (__m512bh)_mm512_loadu_si512(w), Broadcast(last));
      }
    }
  }
}

template <int kTileRows, int kTileVectors, bool kFetches>
void Tile(const uint16_t* x,
          const uint16_t* weight,
          int64_t cols,
          float* out,
          int64_t stride,
          int64_t num_outputs) {
  __m512 acc[kTileRows][kTileVectors];
  Multiply<kTileRows, kTileVectors, kFetches>(x, weight, cols, acc);
  for (int v = 0; v < kTileVectors; ++v) {
    const int64_t left = num_outputs - v * kLanes;
    const auto mask = static_cast<__mmask16>(left >= kLanes ? 0xffff
                                             : left > 0     ? (1 << left) - 1
                                                            : 0);
    for (int r = 0; r < kTileRows; ++r) {
      _mm512_mask_storeu_ps(out + r * stride + v * kLanes, mask, acc[r][v]);
    }
  }
}

using TileFunction = void (*)(const uint16_t* x,
                              const uint16_t* weight,
                              int64_t cols,
                              float* out,
                              int64_t stride,
                              int64_t num_outputs);

template <int kTileVectors, bool kFetches>
constexpr TileFunction kTiles[kRows] = {Tile<1, kTileVectors, kFetches>,
                                        Tile<2, kTileVectors, kFetches>,
                                        Tile<3, kTileVectors, kFetches>,
                                        Tile<4, kTileVectors, kFetches>,
                                        Tile<5, kTileVectors, kFetches>,
                                        Tile<6, kTileVectors, kFetches>};

template <int kTileVectors>
void Tiles(const MatMulArgs& args, const MatMulBlock& block) {
  const int64_t cols = args.weight.cols;
  const int64_t stride = args.weight.rows;
  const auto* weight = reinterpret_cast<const uint16_t*>(args.weight.data) +
                       PackedIndex(block.first_output, 0, cols, DType::kBf16);
  for (int64_t done = 0; done < block.num_rows; done += kRows) {
    const int64_t row = block.first_row + done;
    const int64_t rows = std::min<int64_t>(kRows, block.num_rows - done);
    const bool fetches = done == 0 && FetchesLinesAhead();
    const auto& tiles = fetches ? kTiles<kTileVectors, true> : kTiles<kTileVectors, false>;
    tiles[rows - 1](static_cast<const uint16_t*>(args.x) + row * cols,
                    weight,
                    cols,
                    args.out + row * stride + block.first_output,
                    stride,
                    block.num_outputs);
  }
}

}  // namespace

void MatMulKernelBf16Dot(const MatMulArgs& args, const MatMulBlock& block) {
  if (block.num_outputs <= kMatMulSlice) {
    Tiles<1>(args, block);
  } else {
    Tiles<kVectors>(args, block);
  }
}

}  // namespace ringserve

HWY_POP_ATTRIBUTES

#elif !HWY_ARCH_ARM_A64

#include <cstdlib>

namespace ringserve {

void MatMulKernelBf16Dot(const MatMulArgs& /*args*/, const MatMulBlock& /*block*/) {
  std::abort();  // HasBf16Dot() is false on this architecture
}

}  // namespace ringserve

#endif
