#include <algorithm>

#include "kernels/activation_cuda.h"
#include "kernels/cuda_util.cuh"
#include "kernels/launch_cuda.h"
#include "kernels/moe_cuda.h"
#include "kernels/moe_params_cuda.cuh"

namespace ringserve::cuda {
namespace {

using moe::Routes;

constexpr int32_t kRouteThreads = 128;
constexpr int32_t kGroupThreads = 1024;
constexpr int32_t kCombineThreads = 256;
constexpr int32_t kMaxExperts = 1024;
constexpr int32_t kMaxTiles =
    32768;  // of rows; a grid has at most 65535, experts' last tiles included

struct RouteParams {
  const float* logits;
  Routes routes;
  int32_t num_rows;
  int32_t num_experts;
  int32_t per_token;
  bool normalize;
};

// Whether (value, expert) comes before the other in the order of choice. NaN comes last.
__device__ __forceinline__ bool Before(float value, int32_t expert, float than, int32_t other) {
  return value != than ? value > than : expert < other;
}

// A warp chooses for one row: number i is the first in order among those behind number i - 1.
__global__ void __launch_bounds__(kRouteThreads) RouteKernel(const RouteParams params) {
  const int64_t row = int64_t{blockIdx.x} * (kRouteThreads / 32) + threadIdx.x / 32;
  const auto lane = static_cast<int32_t>(threadIdx.x) % 32;
  if (row >= params.num_rows) {
    return;
  }
  const float* logits = params.logits + row * params.num_experts;
  const auto value = [&](int32_t expert) {
    const float logit = logits[expert];
    return isnan(logit) ? -__builtin_huge_valf() : logit;
  };
  int32_t* experts = params.routes.experts + row * params.per_token;
  float* weights = params.routes.weights + row * params.per_token;
  float last = __builtin_huge_valf();
  int32_t last_expert = -1;
  float largest = 0;
  double total = 0;
  for (int32_t i = 0; i < params.per_token; ++i) {
    float best = -__builtin_huge_valf();
    int32_t best_expert = params.num_experts;
    for (int32_t expert = lane; expert < params.num_experts; expert += 32) {
      const float candidate = value(expert);
      if (Before(last, last_expert, candidate, expert) &&
          Before(candidate, expert, best, best_expert)) {
        best = candidate;
        best_expert = expert;
      }
    }
    for (int32_t distance = 16; distance > 0; distance /= 2) {
      const float other = __shfl_xor_sync(0xffffffffU, best, distance);
      const int32_t other_expert = __shfl_xor_sync(0xffffffffU, best_expert, distance);
      if (Before(other, other_expert, best, best_expert)) {
        best = other;
        best_expert = other_expert;
      }
    }
    last = best;
    last_expert = best_expert;
    largest = i == 0 ? logits[best_expert] : largest;
    if (lane == 0) {
      experts[i] = best_expert;
    }
    total += params.normalize ? exp(static_cast<double>(logits[best_expert] - largest)) : 0.0;
  }
  if (!params.normalize) {
    for (int32_t expert = lane; expert < params.num_experts; expert += 32) {
      total += exp(static_cast<double>(logits[expert] - largest));
    }
    for (int32_t distance = 16; distance > 0; distance /= 2) {
      total += __shfl_xor_sync(0xffffffffU, total, distance);
    }
  }
  __syncwarp();
  for (int32_t i = lane; i < params.per_token; i += 32) {
    const double difference = static_cast<double>(logits[experts[i]] - largest);
    weights[i] = static_cast<float>(exp(difference) / total);
  }
}

// One block brings the choices into order of experts. In which order those of one expert come is
// chance, and no result depends on it.
__global__ void __launch_bounds__(kGroupThreads)
    GroupKernel(const Routes routes, int32_t num_choices, int32_t num_experts) {
  __shared__ int32_t counts[kMaxExperts];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  for (int32_t expert = thread; expert < num_experts; expert += kGroupThreads) {
    counts[expert] = 0;
  }
  __syncthreads();
  for (int32_t choice = thread; choice < num_choices; choice += kGroupThreads) {
    atomicAdd(&counts[routes.experts[choice]], 1);
  }
  __syncthreads();
  if (thread == 0) {
    int32_t row = 0;
    int32_t tile = 0;
    for (int32_t expert = 0; expert < num_experts; ++expert) {
      const int32_t count = counts[expert];
      routes.offsets[expert] = row;
      routes.tile_offsets[expert] = tile;
      counts[expert] = row;
      row += count;
      tile += CeilDiv(count, moe::kTileRows);
    }
    routes.offsets[num_experts] = row;
    routes.tile_offsets[num_experts] = tile;
  }
  __syncthreads();
  for (int32_t choice = thread; choice < num_choices; choice += kGroupThreads) {
    const int32_t place = atomicAdd(&counts[routes.experts[choice]], 1);
    routes.choices[place] = choice;
    routes.places[choice] = place;
  }
}

// The weighted sum of a row's experts, in the order of choice.
__global__ void __launch_bounds__(kCombineThreads) CombineKernel(
    const Routes routes, const float* down, float* out, int32_t size, int32_t chosen) {
  const auto column = static_cast<int32_t>(blockIdx.y * kCombineThreads + threadIdx.x);
  if (column >= size) {
    return;
  }
  const int64_t row = blockIdx.x;
  float sum = 0;
  for (int64_t choice = row * chosen; choice < (row + 1) * chosen; ++choice) {
    const float part = down[int64_t{routes.places[choice]} * size + column];
    sum = __fmaf_rn(routes.weights[choice], part, sum);
  }
  out[row * size + column] = sum;
}

// Bytes from expert to expert, or -1 if they are not evenly apart.
int64_t ExpertBytes(const ExpertsArgs& args) {
  const ExpertWeights& first = args.experts.front();
  const int64_t bytes =
      args.experts.size() > 1 ? args.experts[1].gate_up.data - first.gate_up.data : 0;
  const auto distance = [](const float* from, const float* to) {
    return reinterpret_cast<const std::byte*>(to) - reinterpret_cast<const std::byte*>(from);
  };
  for (size_t i = 0; i < args.experts.size(); ++i) {
    const ExpertWeights& expert = args.experts[i];
    const int64_t apart = bytes * static_cast<int64_t>(i);
    const bool even =
        expert.gate_up.data - first.gate_up.data == apart &&
        expert.down.data - first.down.data == apart &&
        (first.gate_up_bias == nullptr ||
         distance(first.gate_up_bias, expert.gate_up_bias) == apart) &&
        (first.down_bias == nullptr || distance(first.down_bias, expert.down_bias) == apart);
    if (!even) {
      return -1;
    }
  }
  return bytes;
}

cudaError_t Route(const ExpertsArgs& args, const Routes& routes, cudaStream_t stream) {
  const auto num_experts = static_cast<int32_t>(args.experts.size());
  const RouteParams params = {.logits = args.router_logits,
                              .routes = routes,
                              .num_rows = args.num_rows,
                              .num_experts = num_experts,
                              .per_token = args.experts_per_token,
                              .normalize = args.normalize};
  RouteKernel<<<static_cast<unsigned>(CeilDiv(args.num_rows, kRouteThreads / 32)),
                kRouteThreads,
                0,
                stream>>>(params);
  GroupKernel<<<1, kGroupThreads, 0, stream>>>(
      routes, args.num_rows * args.experts_per_token, num_experts);
  return cudaGetLastError();
}

}  // namespace

int64_t RoutesBytes(int64_t max_rows, int32_t experts_per_token, int32_t num_experts) {
  return Routes::Bytes(max_rows * experts_per_token, num_experts);
}

const char* CheckExpertsCudaArgs(const ExpertsArgs& args) {
  if (args.experts.empty() || args.experts.size() > kMaxExperts) {
    return "there must be from 1 to 1024 experts";
  }
  if (args.experts_per_token < 1 ||
      static_cast<size_t>(args.experts_per_token) > args.experts.size()) {
    return "a row must have at least one expert, and no more than there are";
  }
  if (args.hidden_dim < 8 || args.hidden_dim % 8 != 0 || args.ffn_dim < 8 ||
      args.ffn_dim % 8 != 0) {
    return "hidden_dim and ffn_dim must be multiples of 8";
  }
  if (args.dtype == DType::kF32) {
    return "experts must be bf16 or f16";
  }
  if (args.num_rows < 0 ||
      int64_t{args.num_rows} * args.experts_per_token > int64_t{kMaxTiles} * moe::kTileRows / 2) {
    return "rows times experts of a row must be in [0, 2^20]";
  }
  if (ExpertBytes(args) < 0) {
    return "experts must lie at one distance from each other";
  }
  return nullptr;
}

cudaError_t LaunchExperts(const ExpertsArgs& args, std::byte* routes_at, cudaStream_t stream) {
  if (CheckExpertsCudaArgs(args) != nullptr) {
    return cudaErrorInvalidValue;
  }
  if (args.num_rows == 0) {
    return cudaSuccess;
  }
  const int32_t num_choices = args.num_rows * args.experts_per_token;
  const auto num_experts = static_cast<int32_t>(args.experts.size());
  const Routes routes = Routes::At(routes_at, num_choices, num_experts);
  const ExpertsWorkspace at(num_choices, args.hidden_dim, args.ffn_dim, args.dtype);
  const ExpertWeights& first = args.experts.front();
  auto* gate_up = reinterpret_cast<float*>(args.workspace + at.gate_up);
  auto* down = reinterpret_cast<float*>(args.workspace + at.down);
  // Every expert with rows may have one tile that is not full.
  const int32_t max_tiles = num_choices / moe::kTileRows + std::min(num_choices, num_experts);
  moe::GroupedParams product = {.x = static_cast<const std::byte*>(args.x),
                                .weight = first.gate_up.data,
                                .bias = reinterpret_cast<const std::byte*>(first.gate_up_bias),
                                .expert_bytes = ExpertBytes(args),
                                .out = gate_up,
                                .offsets = routes.offsets,
                                .tile_offsets = routes.tile_offsets,
                                .choices = routes.choices,
                                .per_token = args.experts_per_token,
                                .num_experts = num_experts,
                                .num_features = 2 * args.ffn_dim,
                                .cols = args.hidden_dim};
  cudaError_t error = Route(args, routes, stream);
  if (error == cudaSuccess) {
    error = moe::LaunchGrouped(product, args.dtype, max_tiles, stream);
  }
  if (error == cudaSuccess) {
    error = LaunchActivation({.in = gate_up,
                              .out = args.workspace + at.activated,
                              .num_rows = num_choices,
                              .ffn_dim = args.ffn_dim,
                              .activation = args.activation,
                              .gated = true,
                              .out_dtype = args.dtype},
                             stream);
  }
  product.x = args.workspace + at.activated;
  product.weight = first.down.data;
  product.bias = reinterpret_cast<const std::byte*>(first.down_bias);
  product.out = down;
  product.choices = nullptr;
  product.num_features = args.hidden_dim;
  product.cols = args.ffn_dim;
  if (error == cudaSuccess) {
    error = moe::LaunchGrouped(product, args.dtype, max_tiles, stream);
  }
  if (error != cudaSuccess) {
    return error;
  }
  const dim3 grid(static_cast<unsigned>(args.num_rows),
                  static_cast<unsigned>(CeilDiv(args.hidden_dim, kCombineThreads)));
  CombineKernel<<<grid, kCombineThreads, 0, stream>>>(
      routes, down, args.out, args.hidden_dim, args.experts_per_token);
  return cudaGetLastError();
}

}  // namespace ringserve::cuda
