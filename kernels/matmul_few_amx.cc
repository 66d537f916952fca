// One or two rows in the arithmetic of AMX without its tiles, which bring loads of 1 KiB in bursts
// and read 88 to 92 % of what plain reading gets; this, all (Xeon, Sapphire Rapids, two threads).
#include "kernels/matmul_few_amx.h"

#include <hwy/base.h>

#if HWY_ARCH_X86_64
#include <algorithm>

#include "kernels/amx_sums_inl.h"
#include "kernels/matmul_layout.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kStepPairs = kAmxStep / 2;

// Of FetchAhead. 2048 and 512 read 93 % of what plain reading gets, 3072 for the first level alone
// 84 to 96.
constexpr int64_t kFarBytes = 4096;
constexpr int64_t kNearBytes = 1024;

// Adds `num_pairs` pairs of k, at most those of a step, to V vectors of outputs.
template <int R, int V>
HWY_INLINE void AddStep(const uint16_t* x,
                        int64_t cols,
                        const uint16_t* weight,
                        int64_t num_pairs,
                        __m512 (&total)[R][V]) {
  AmxSums sums[R][V];
  for (int64_t pair = 0; pair < num_pairs; ++pair) {
    const uint16_t* line = weight + pair * kPanelRows * 2;
    EvenOdd pairs_of_x[R];
    HWY_UNROLL(2)
    for (int r = 0; r < R; ++r) {
      pairs_of_x[r] = BroadcastPair(x + r * cols + 2 * pair);
    }
    HWY_UNROLL(4)
    for (int v = 0; v < V; ++v) {
      FetchAhead<kLanes * 4, kFarBytes, kNearBytes>(line + v * kLanes * 2);
      __m512i both = _mm512_loadu_si512(line + v * kLanes * 2);
      asm("" : "+v"(both));  // one load, not one for either half
      const EvenOdd w = Split(both);
      HWY_UNROLL(2)
      for (int r = 0; r < R; ++r) {
        sums[r][v].Add(w, pairs_of_x[r]);
      }
    }
  }
  HWY_UNROLL(2)
  for (int r = 0; r < R; ++r) {
    HWY_UNROLL(4)
    for (int v = 0; v < V; ++v) {
      total[r][v] = _mm512_add_ps(total[r][v], sums[r][v].Total());
    }
  }
}

template <int R, int V>
void Multiply(const MatMulArgs& args, const MatMulBlock& block, int64_t first_output) {
  const int64_t cols = args.weight.cols;
  const auto* x = static_cast<const uint16_t*>(args.x) + block.first_row * cols;
  const auto* weight = reinterpret_cast<const uint16_t*>(args.weight.data) +
                       PackedIndex(first_output, 0, cols, DType::kBf16);
  __m512 total[R][V];
  for (auto& row : total) {
    std::fill_n(row, V, _mm512_setzero_ps());
  }
  int64_t k = 0;
  for (; k + kAmxStep <= cols; k += kAmxStep) {
    AddStep<R, V>(x + k, cols, weight + k * kPanelRows, kStepPairs, total);
  }
  if (k < cols) {
    uint16_t tail[R][kAmxStep] = {};  // an odd k has a partner of zero
    for (int r = 0; r < R; ++r) {
      std::copy_n(x + r * cols + k, cols - k, tail[r]);
    }
    AddStep<R, V>(tail[0], kAmxStep, weight + k * kPanelRows, CeilDiv<int64_t>(cols - k, 2), total);
  }
  const int64_t num_outputs = block.first_output + block.num_outputs - first_output;
  for (int v = 0; v < V; ++v) {
    const int64_t left = std::clamp<int64_t>(num_outputs - v * kLanes, 0, kLanes);
    const auto mask = static_cast<__mmask16>((1U << left) - 1);
    for (int r = 0; r < R; ++r) {
      float* out = args.out + (block.first_row + r) * args.weight.rows + first_output + v * kLanes;
      _mm512_mask_storeu_ps(out, mask, total[r][v]);
    }
  }
}

template <int R>
void Outputs(const MatMulArgs& args, const MatMulBlock& block) {
  const int64_t last = block.first_output + block.num_outputs;
  for (int64_t output = block.first_output; output < last;) {
    const int64_t end = RoundUp(output + 1, kPanelRows);
    if (end - output == kPanelRows && last - output > kPanelRows - kMatMulSlice) {
      Multiply<R, kPanelRows / kLanes>(args, block, output);
      output = end;
    } else {
      Multiply<R, 1>(args, block, output);
      output += kLanes;
    }
  }
}

}  // namespace

void MatMulFewAmx(const MatMulArgs& args, const MatMulBlock& block) {
  const SubnormalsAsZero as_zero;
  if (block.num_rows == 1) {
    Outputs<1>(args, block);
  } else {
    Outputs<2>(args, block);
  }
}

}  // namespace ringserve

HWY_POP_ATTRIBUTES

#endif
