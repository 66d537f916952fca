#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/moe.h"
#include "kernels/thread_pool.h"

namespace ringserve {
namespace {

// The choice of all rows, and its rows in order of expert.
struct Routes {
  std::vector<int32_t> experts;  // [num_rows, experts_per_token]
  std::vector<float> weights;
  std::vector<int64_t> offsets;  // [num_experts + 1], into the grouped rows
  std::vector<int64_t> places;   // [num_rows, experts_per_token]: which grouped row it is

  explicit Routes(const ExpertsArgs& args) {
    const auto num_experts = static_cast<int32_t>(args.experts.size());
    const auto chosen = static_cast<size_t>(args.experts_per_token);
    const size_t count = static_cast<size_t>(args.num_rows) * chosen;
    experts.resize(count);
    weights.resize(count);
    places.resize(count);
    offsets.assign(args.experts.size() + 1, 0);
    for (size_t row = 0; row < static_cast<size_t>(args.num_rows); ++row) {
      RouteRow(args.router_logits + row * args.experts.size(),
               num_experts,
               args.normalize,
               std::span(experts).subspan(row * chosen, chosen),
               std::span(weights).subspan(row * chosen, chosen));
    }
    for (const int32_t expert : experts) {
      ++offsets[static_cast<size_t>(expert) + 1];
    }
    std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
    std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
    for (size_t i = 0; i < count; ++i) {
      places[i] = next[static_cast<size_t>(experts[i])]++;
    }
  }
};

// One expert on its rows.
void RunExpert(const ExpertsArgs& args,
               const ExpertWeights& expert,
               int64_t first,
               int32_t num_rows,
               const ExpertsWorkspace& at,
               ThreadPool& pool) {
  const int64_t element = DTypeBytes(args.dtype);
  auto* x = args.workspace + at.x + first * args.hidden_dim * element;
  auto* gate_up = reinterpret_cast<float*>(args.workspace + at.gate_up) + first * 2 * args.ffn_dim;
  auto* activated = args.workspace + at.activated + first * args.ffn_dim * element;
  auto* down = reinterpret_cast<float*>(args.workspace + at.down) + first * args.hidden_dim;
  std::byte* matmul = args.matmul_workspace;
  MatMulCpu({x, expert.gate_up, gate_up, num_rows, expert.gate_up_bias, matmul}, pool);
  ActivationCpu({.in = gate_up,
                 .out = activated,
                 .num_rows = num_rows,
                 .ffn_dim = args.ffn_dim,
                 .activation = args.activation,
                 .gated = true,
                 .out_dtype = args.dtype},
                pool);
  MatMulCpu({activated, expert.down, down, num_rows, expert.down_bias, matmul}, pool);
}

}  // namespace

int64_t ExpertsWorkspaceBytes(
    int64_t max_rows, int32_t experts_per_token, int32_t hidden_dim, int32_t ffn_dim, DType dtype) {
  return ExpertsWorkspace(max_rows * experts_per_token, hidden_dim, ffn_dim, dtype).bytes;
}

void RouteRow(const float* logits,
              int32_t num_experts,
              bool normalize,
              std::span<int32_t> experts,
              std::span<float> weights) {
  std::vector<int32_t> order(static_cast<size_t>(num_experts));
  std::iota(order.begin(), order.end(), 0);
  // A NaN is no order; it counts as the least, and spoils the weights below.
  const auto value = [&](int32_t expert) {
    return std::isnan(logits[expert]) ? -INFINITY : logits[expert];
  };
  std::partial_sort(
      order.begin(),
      order.begin() + static_cast<int64_t>(experts.size()),
      order.end(),
      [&](int32_t a, int32_t b) { return value(a) != value(b) ? value(a) > value(b) : a < b; });
  const float largest = logits[order.front()];
  double total = 0;
  const size_t summed = normalize ? experts.size() : order.size();
  for (size_t i = 0; i < summed; ++i) {
    const auto expert = static_cast<size_t>(normalize ? order[i] : static_cast<int32_t>(i));
    total += std::exp(static_cast<double>(logits[expert] - largest));
  }
  for (size_t i = 0; i < experts.size(); ++i) {
    experts[i] = order[i];
    weights[i] =
        static_cast<float>(std::exp(static_cast<double>(logits[order[i]] - largest)) / total);
  }
}

void ExpertsCpu(const ExpertsArgs& args, ThreadPool& pool) {
  const Routes routes(args);
  const int64_t chosen = args.experts_per_token;
  const ExpertsWorkspace at(args.num_rows * chosen, args.hidden_dim, args.ffn_dim, args.dtype);
  const auto row_bytes = static_cast<size_t>(args.hidden_dim) * DTypeBytes(args.dtype);
  for (int64_t i = 0; i < args.num_rows * chosen; ++i) {
    std::memcpy(args.workspace + at.x + routes.places[i] * row_bytes,
                static_cast<const std::byte*>(args.x) + i / chosen * row_bytes,
                row_bytes);
  }
  for (size_t expert = 0; expert < args.experts.size(); ++expert) {
    const int64_t first = routes.offsets[expert];
    const auto num_rows = static_cast<int32_t>(routes.offsets[expert + 1] - first);
    if (num_rows > 0) {
      RunExpert(args, args.experts[expert], first, num_rows, at, pool);
    }
  }
  const auto* down = reinterpret_cast<const float*>(args.workspace + at.down);
  pool.ParallelFor(args.num_rows, 8, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      float* out = args.out + row * args.hidden_dim;
      std::fill_n(out, args.hidden_dim, 0.0F);
      for (int64_t i = row * chosen; i < (row + 1) * chosen; ++i) {
        const float* part = down + routes.places[i] * args.hidden_dim;
        for (int64_t j = 0; j < args.hidden_dim; ++j) {
          out[j] += routes.weights[i] * part[j];
        }
      }
    }
  });
}

}  // namespace ringserve
