// What the layer loop keeps between and during steps. Internal to the model: model.cc is the loop,
// model_layers.cc its parts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/model/model.h"
#include "engine/model/model_config.h"
#include "engine/model/model_workspace.h"
#include "engine/model/weights.h"
#include "kernels/kv_view.h"
#include "kernels/tile_plan.h"

namespace ringserve {

// Where a layer's keys lie, and how it rotates.
struct LayerPlace {
  size_t group = 0;
  int32_t layer = 0;  // within the group
};

struct Rotation {
  std::vector<double> frequencies;
  double magnitude = 1.0;
};

// What the ops of one window group read, in the backend's memory but for `tiles`.
struct GroupArrays {
  const int64_t* slots = nullptr;
  const int64_t* sink_slots = nullptr;  // null: no row writes a sink
  const TilePlan* tiles = nullptr;
  const float* angles = nullptr;
  std::byte* kv_pool = nullptr;
  KvLayout kv;
};

struct StepArrays {
  int32_t num_rows = 0;
  float* x = nullptr;  // [num_rows, hidden_dim]
  const int64_t* positions = nullptr;
  GroupArrays groups[2] = {};
  bool shares_blocks = false;  // of both groups
  const float* position_bias = nullptr;
  const TilePlan* cross_tiles = nullptr;  // null: the layers attend to nothing but their own rows
};

struct Model::State {
  ModelConfig config;
  const Weights& weights;
  StepLimits limits;
  Backend& backend;
  DType dtype;
  bool defers_norms;                // those before a layer's parts
  std::vector<LayerPlace> places;   // [num_all_layers]
  std::vector<Rotation> rotations;  // of each window group
  Workspace at;
  Buffer workspace;
  std::vector<int32_t> position_rows;  // of the step, for learned positions

  template <typename T>
  T* Place(int64_t offset) const {
    return reinterpret_cast<T*>(workspace.data() + offset);
  }

  // x += residual; out = norm(x), of out_dtype. `out` may be x itself where that is F32.
  absl::Status Norm(float* x,
                    const float* residual,
                    const NormWeights& norm,
                    std::byte* out,
                    int32_t num_rows,
                    DType out_dtype);

  absl::Status Norm(
      float* x, const float* residual, const NormWeights& norm, std::byte* out, int32_t num_rows) {
    return Norm(x, residual, norm, out, num_rows, dtype);
  }

  // The norm before a layer's part, into `normed`, deferred if it can be: what it returns goes to
  // the products of `normed` as their row_scales.
  absl::StatusOr<const float*> PreNorm(const StepArrays& step,
                                       const float* residual,
                                       const NormWeights& norm,
                                       bool may_defer = true);

  // Of some rows, which it gathers in gathered_x.
  absl::Status FinalNorm(std::span<const int32_t> rows, std::byte* out, DType out_dtype);
  absl::Status PostNorm(const NormWeights& norm, int32_t num_rows);
  absl::Status Begin(const StepInput& input,
                     std::byte* kv_pool,
                     const KvLayout& kv,
                     StepArrays& step);
  absl::Status Rotate(size_t group, int32_t num_angles, StepArrays& step);
  // Into `out`, [token_ids.size(), hidden_dim].
  absl::Status Embed(std::span<const int32_t> token_ids,
                     std::span<const int64_t> positions,
                     float* out);
  // Reads the prompts and, after the last layer, appends what the decoder's layers see of them.
  absl::Status Encode(const EncoderStep& input, std::byte* kv_pool, const KvLayout& kv);
  // Leaves step.x, and in `projected` what is still to be added to it.
  absl::Status RunLayers(const StepArrays& step, int32_t first, int32_t count);
  absl::Status Attend(const StepArrays& step, int32_t layer, const float* scales);
  absl::Status AttendAcross(const StepArrays& step, int32_t layer, const float* scales);
  absl::Status Score(const TilePlan& tiles,
                     const KvView& kv,
                     const StepArrays& step,
                     int32_t layer,
                     const float* position_bias);
  absl::Status FeedForward(const LayerWeights& layer, int32_t num_rows, const float* scales);
  absl::Status Mix(const LayerWeights& layer, int32_t num_rows);
  absl::Status Gather(const int32_t* rows, const float* from, float* to, int32_t num_rows);

  template <typename T>
  absl::StatusOr<const T*> Upload(std::span<const T> values) {
    ASSIGN_OR_RETURN(
        const std::byte* bytes,
        backend.Upload(reinterpret_cast<const std::byte*>(values.data()), values.size_bytes()));
    return reinterpret_cast<const T*>(bytes);
  }
};

}  // namespace ringserve
