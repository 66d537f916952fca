// A mixture of experts (Shazeer et al. 2017): every row goes through the few experts that its
// router logits choose, and gets their weighted sum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/activation.h"
#include "kernels/matmul.h"
#include "kernels/types.h"

namespace ringserve {

class ThreadPool;

struct ExpertWeights {
  Matrix gate_up;                       // [2 * ffn_dim, hidden_dim], gate first
  Matrix down;                          // [hidden_dim, ffn_dim]
  const float* gate_up_bias = nullptr;  // or null: none
  const float* down_bias = nullptr;
};

// The experts of a row are those with the experts_per_token largest logits; of equal logits the one
// with the smaller index. Their weights are the softmax over all logits or, `normalize`, over
// theirs. They are summed in descending order of logits, so that a row's bits do not depend on the
// other rows.
struct ExpertsArgs {
  const float* router_logits = nullptr;    // [num_rows, num_experts]
  const void* x = nullptr;                 // [num_rows, hidden_dim] of `dtype`
  float* out = nullptr;                    // [num_rows, hidden_dim]
  std::span<const ExpertWeights> experts;  // host, [num_experts]
  std::byte* workspace = nullptr;          // ExpertsWorkspaceBytes
  std::byte* matmul_workspace = nullptr;   // of ExpertsCpu's products (MatMulArgs)
  int32_t num_rows = 0;
  int32_t experts_per_token = 0;
  int32_t hidden_dim = 0;
  int32_t ffn_dim = 0;
  bool normalize = true;
  Activation activation = Activation::kSilu;
  DType dtype = DType::kBf16;  // of x and of the matrices
};

// Where the rows of all chosen experts lie in the workspace, as offsets.
struct ExpertsWorkspace {
  int64_t x = 0;          // [rows, hidden_dim] of dtype
  int64_t gate_up = 0;    // [rows, 2 * ffn_dim] floats
  int64_t activated = 0;  // [rows, ffn_dim] of dtype
  int64_t down = 0;       // [rows, hidden_dim] floats
  int64_t bytes = 0;

  // rows: num_rows * experts_per_token
  ExpertsWorkspace(int64_t rows, int32_t hidden_dim, int32_t ffn_dim, DType dtype) {
    const auto take = [&](int64_t elements, int64_t element_bytes) {
      const int64_t offset = bytes;
      bytes += RoundUp<int64_t>(rows * elements * element_bytes, 128);
      return offset;
    };
    x = take(hidden_dim, DTypeBytes(dtype));
    gate_up = take(2 * int64_t{ffn_dim}, sizeof(float));
    activated = take(ffn_dim, DTypeBytes(dtype));
    down = take(hidden_dim, sizeof(float));
  }
};

int64_t ExpertsWorkspaceBytes(
    int64_t max_rows, int32_t experts_per_token, int32_t hidden_dim, int32_t ffn_dim, DType dtype);

void ExpertsCpu(const ExpertsArgs& args, ThreadPool& pool);

// Chooses for one row: indices and weights, [experts_per_token] each, in descending order of
// logits.
void RouteRow(const float* logits,
              int32_t num_experts,
              bool normalize,
              std::span<int32_t> experts,
              std::span<float> weights);

}  // namespace ringserve
