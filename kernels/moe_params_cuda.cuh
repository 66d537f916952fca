// What the kernels of a mixture of experts tell each other.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/types.h"

namespace ringserve::cuda::moe {

// Rows of one expert that a block of the grouped product takes at once.
inline constexpr int32_t kTileRows = 64;

// Choice c = row * experts_per_token + i is expert number i of a row. Grouped rows are the choices
// in order of their experts.
struct Routes {
  int32_t* experts;       // [choices]
  float* weights;         // [choices]
  int32_t* choices;       // [choices]: of each grouped row
  int32_t* places;        // [choices]: the grouped row of each choice
  int32_t* offsets;       // [num_experts + 1]: first grouped row of each expert
  int32_t* tile_offsets;  // [num_experts + 1]: first tile of rows of each expert

  static int64_t Bytes(int64_t choices, int32_t num_experts) {
    return 4 * Stride(choices) + 2 * Stride(num_experts + 1);
  }

  static Routes At(std::byte* to, int64_t choices, int32_t num_experts) {
    const auto take = [&](int64_t count) {
      std::byte* at = to;
      to += Stride(count);
      return at;
    };
    Routes routes;
    routes.experts = reinterpret_cast<int32_t*>(take(choices));
    routes.weights = reinterpret_cast<float*>(take(choices));
    routes.choices = reinterpret_cast<int32_t*>(take(choices));
    routes.places = reinterpret_cast<int32_t*>(take(choices));
    routes.offsets = reinterpret_cast<int32_t*>(take(num_experts + 1));
    routes.tile_offsets = reinterpret_cast<int32_t*>(take(num_experts + 1));
    return routes;
  }

 private:
  static int64_t Stride(int64_t count) { return RoundUp<int64_t>(count * 4, 128); }
};

// The grouped product: out[r] = x[row of r] W^T + bias, W that of grouped row r's expert.
struct GroupedParams {
  const std::byte* x;
  const std::byte* weight;  // of expert 0, [num_features, cols]
  const std::byte* bias;    // of expert 0, floats; or null
  int64_t expert_bytes;     // from an expert's weight or bias to the next one's
  float* out;               // [choices, num_features]
  const int32_t* offsets;
  const int32_t* tile_offsets;
  const int32_t* choices;  // grouped row r reads row choices[r] / per_token of x; null: row r
  int32_t per_token;
  int32_t num_experts;
  int32_t num_features;
  int32_t cols;
};

// max_tiles: at least as many tiles of rows as the experts can have.
[[nodiscard]] cudaError_t LaunchGrouped(const GroupedParams& params,
                                        DType dtype,
                                        int32_t max_tiles,
                                        cudaStream_t stream);

}  // namespace ringserve::cuda::moe
