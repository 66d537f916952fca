#include "engine/model/model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/model/model_workspace.h"
#include "engine/model/weights.h"

namespace ringserve {
namespace {

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
  const int64_t* positions = nullptr;
  GroupArrays groups[2];
  bool shares_blocks = false;  // of both groups
};

}  // namespace

struct Model::State {
  ModelConfig config;
  const Weights& weights;
  StepLimits limits;
  Backend& backend;
  DType dtype;
  std::vector<LayerPlace> places;   // [num_layers]
  std::vector<Rotation> rotations;  // of each window group
  Workspace at;
  Buffer workspace;
  std::vector<int32_t> position_rows;  // of the step, for learned positions

  template <typename T>
  T* Place(int64_t offset) const {
    return reinterpret_cast<T*>(workspace.data() + offset);
  }

  absl::Status Norm(
      float* x, const float* residual, const NormWeights& norm, std::byte* out, int32_t num_rows);
  absl::Status PostNorm(const NormWeights& norm, int32_t num_rows);
  absl::Status Begin(const StepInput& input,
                     std::byte* kv_pool,
                     const KvLayout& kv,
                     StepArrays& step);
  absl::Status Rotate(size_t group, int32_t num_angles, StepArrays& step);
  absl::Status Embed(const StepInput& input, const StepArrays& step);
  absl::Status Attend(const StepArrays& step, int32_t layer);
  absl::Status FeedForward(const LayerWeights& layer, int32_t num_rows);
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

// x += residual; out = norm(x).
absl::Status Model::State::Norm(
    float* x, const float* residual, const NormWeights& norm, std::byte* out, int32_t num_rows) {
  if (config.layer_norm) {
    return backend.LayerNorm({.x = x,
                              .residual_in = residual,
                              .weight = norm.weight,
                              .bias = norm.bias,
                              .out = out,
                              .num_rows = num_rows,
                              .hidden_dim = config.hidden_dim,
                              .eps = config.rms_norm_eps,
                              .out_dtype = dtype});
  }
  return backend.RmsNorm({.x = x,
                          .residual_in = residual,
                          .weight = norm.weight,
                          .out = out,
                          .num_rows = num_rows,
                          .hidden_dim = config.hidden_dim,
                          .eps = config.rms_norm_eps,
                          .out_dtype = dtype});
}

// Normalises what is about to be added to x, in place.
absl::Status Model::State::PostNorm(const NormWeights& norm, int32_t num_rows) {
  if (norm.weight == nullptr) {
    return absl::OkStatus();
  }
  auto* projected = Place<float>(at.projected);
  return backend.RmsNorm({.x = projected,
                          .weight = norm.weight,
                          .out = projected,
                          .num_rows = num_rows,
                          .hidden_dim = config.hidden_dim,
                          .eps = config.rms_norm_eps,
                          .out_dtype = DType::kF32});
}

// Uploads a step's arrays and computes its angles.
absl::Status Model::State::Begin(const StepInput& input,
                                 std::byte* kv_pool,
                                 const KvLayout& kv,
                                 StepArrays& step) {
  RETURN_IF_ERROR(backend.BeginStep(*input.tiles));
  ASSIGN_OR_RETURN(step.positions, Upload(input.positions));
  GroupArrays& first = step.groups[0];
  first.tiles = input.tiles;
  first.kv_pool = kv_pool;
  first.kv = kv;
  ASSIGN_OR_RETURN(first.slots, Upload(input.slots));
  if (!input.sink_slots.empty()) {
    ASSIGN_OR_RETURN(first.sink_slots, Upload(input.sink_slots));
  }
  RETURN_IF_ERROR(Rotate(0, static_cast<int32_t>(input.positions.size()), step));
  if (rotations.size() == 1) {
    return absl::OkStatus();
  }
  GroupArrays& second = step.groups[1];
  step.shares_blocks = input.local->kv_pool == nullptr;
  if (step.shares_blocks) {
    second = first;
  } else {
    second.kv_pool = input.local->kv_pool;
    second.kv = input.local->kv;
    ASSIGN_OR_RETURN(second.slots, Upload(input.local->slots));
  }
  second.tiles = input.local->tiles;
  return Rotate(1, step.num_rows, step);
}

absl::Status Model::State::Rotate(size_t group, int32_t num_angles, StepArrays& step) {
  const Rotation& rotation = rotations[group];
  auto* angles = Place<float>(at.angles[group]);
  step.groups[group].angles = angles;
  ASSIGN_OR_RETURN(const double* const frequencies,
                   Upload(std::span<const double>(rotation.frequencies)));
  return backend.RopeAngles({.positions = step.positions,
                             .frequencies = frequencies,
                             .angles = angles,
                             .num_rows = num_angles,
                             .head_dim = config.head_dim,
                             .magnitude = rotation.magnitude});
}

absl::Status Model::State::Embed(const StepInput& input, const StepArrays& step) {
  ASSIGN_OR_RETURN(const int32_t* const token_ids, Upload(input.token_ids));
  EmbedArgs args = {.token_ids = token_ids,
                    .table = weights.embedding().data,
                    .out = Place<float>(at.x),
                    .num_rows = step.num_rows,
                    .hidden_dim = config.hidden_dim,
                    .vocab_size = config.vocab_size,
                    .table_dtype = weights.embedding().dtype,
                    .scale = config.embedding_scale};
  RETURN_IF_ERROR(backend.Embed(args));
  if (!config.learned_positions) {
    return absl::OkStatus();
  }
  position_rows.clear();
  for (int32_t i = 0; i < step.num_rows; ++i) {
    RS_CHECK(input.positions[static_cast<size_t>(i)] < config.max_positions);
    position_rows.push_back(static_cast<int32_t>(input.positions[static_cast<size_t>(i)]));
  }
  ASSIGN_OR_RETURN(args.token_ids, Upload(std::span<const int32_t>(position_rows)));
  args.table = weights.positions().data;
  args.table_dtype = weights.positions().dtype;
  args.vocab_size = static_cast<int32_t>(config.max_positions);
  args.scale = 1.0F;
  args.accumulate = true;
  return backend.Embed(args);
}

absl::Status Model::State::Attend(const StepArrays& step, int32_t index) {
  const LayerWeights& layer = weights.layer(index);
  const LayerPlace& place = places[static_cast<size_t>(index)];
  const GroupArrays& group = step.groups[place.group];
  const KvView kv = {group.kv_pool, group.kv, step.shares_blocks ? index : place.layer};
  const int32_t num_rows = step.num_rows;
  auto* qkv = Place<float>(at.qkv);
  const int64_t q_dim = int64_t{config.num_heads} * config.head_dim;
  RETURN_IF_ERROR(
      backend.MatMul({Place<std::byte>(at.normed), layer.qkv, qkv, num_rows, layer.qkv_bias}));
  RETURN_IF_ERROR(backend.RopeAppend({.qkv = qkv,
                                      .angles = group.angles,
                                      .slots = group.slots,
                                      .sink_slots = group.sink_slots,
                                      .q = Place<std::byte>(at.q),
                                      .kv = kv,
                                      .num_rows = num_rows,
                                      .num_heads = config.num_heads,
                                      .q_dtype = dtype,
                                      .q_norm = layer.q_norm.weight,
                                      .k_norm = layer.k_norm.weight,
                                      .norm_eps = config.rms_norm_eps}));
  RETURN_IF_ERROR(backend.Attention({.plan = group.tiles,
                                     .q = Place<std::byte>(at.q),
                                     .kv = kv,
                                     .out = Place<std::byte>(at.attended),
                                     .q_stride = q_dim,
                                     .out_stride = q_dim,
                                     .num_heads = config.num_heads,
                                     .scale = config.AttentionScale(index),
                                     .q_dtype = dtype,
                                     .out_dtype = dtype,
                                     .angles = group.angles,
                                     .softcap = config.attention_softcap,
                                     .sink_logits = layer.sinks,
                                     .workspace = Place<float>(at.partials)}));
  auto* projected = Place<float>(at.projected);
  RETURN_IF_ERROR(backend.MatMul(
      {Place<std::byte>(at.attended), layer.o_proj, projected, num_rows, layer.o_bias}));
  return PostNorm(layer.post_attn_norm, num_rows);
}

absl::Status Model::State::FeedForward(const LayerWeights& layer, int32_t num_rows) {
  if (!layer.experts.empty()) {
    RETURN_IF_ERROR(Mix(layer, num_rows));
    return PostNorm(layer.post_ffn_norm, num_rows);
  }
  auto* gate_up = Place<float>(at.gate_up);
  auto* activated = Place<std::byte>(at.activated);
  const MatMulArgs product = {
      Place<std::byte>(at.normed), layer.gate_up, gate_up, num_rows, layer.gate_up_bias};
  if (config.gated && config.activation == Activation::kSilu) {
    RETURN_IF_ERROR(
        backend.MatMulSwiGlu(product, {gate_up, activated, num_rows, config.ffn_dim, dtype}));
  } else {
    RETURN_IF_ERROR(backend.MatMul(product));
    RETURN_IF_ERROR(backend.Activate({.in = gate_up,
                                      .out = activated,
                                      .num_rows = num_rows,
                                      .ffn_dim = config.ffn_dim,
                                      .activation = config.activation,
                                      .gated = config.gated,
                                      .out_dtype = dtype}));
  }
  RETURN_IF_ERROR(backend.MatMul(
      {activated, layer.down, Place<float>(at.projected), num_rows, layer.down_bias}));
  return PostNorm(layer.post_ffn_norm, num_rows);
}

absl::Status Model::State::Mix(const LayerWeights& layer, int32_t num_rows) {
  auto* normed = Place<std::byte>(at.normed);
  auto* logits = Place<float>(at.router);
  RETURN_IF_ERROR(backend.MatMul({normed, layer.router, logits, num_rows, layer.router_bias}));
  return backend.Experts({.router_logits = logits,
                          .x = normed,
                          .out = Place<float>(at.projected),
                          .experts = layer.experts,
                          .workspace = Place<std::byte>(at.experts),
                          .num_rows = num_rows,
                          .experts_per_token = config.moe.experts_per_token,
                          .hidden_dim = config.hidden_dim,
                          .ffn_dim = config.moe.ffn_dim,
                          .normalize = config.moe.normalize,
                          .activation = config.activation,
                          .dtype = dtype});
}

// Rows of an activation are picked as an embedding picks rows of a table.
absl::Status Model::State::Gather(const int32_t* rows,
                                  const float* from,
                                  float* to,
                                  int32_t num_rows) {
  return backend.Embed({.token_ids = rows,
                        .table = reinterpret_cast<const std::byte*>(from),
                        .out = to,
                        .num_rows = num_rows,
                        .hidden_dim = config.hidden_dim,
                        .vocab_size = limits.max_rows,
                        .table_dtype = DType::kF32});
}

Model::Model(std::unique_ptr<State> state) : state_(std::move(state)) {}

Model::~Model() = default;

int64_t Model::WorkspaceBytes(const ModelConfig& config, DType dtype, const StepLimits& limits) {
  return CarveWorkspace(config, dtype, limits).bytes;
}

absl::StatusOr<std::unique_ptr<Model>> Model::Create(const ModelConfig& config,
                                                     const Weights& weights,
                                                     const StepLimits& limits,
                                                     Backend& backend) {
  const Workspace at = CarveWorkspace(config, weights.dtype(), limits);
  ASSIGN_OR_RETURN(Buffer workspace,
                   backend.Allocate(static_cast<size_t>(at.bytes), MemoryKind::kDevice));
  RETURN_IF_ERROR(backend.PrepareSteps(config, weights.dtype(), limits));
  std::vector<LayerPlace> places(static_cast<size_t>(config.num_layers));
  std::vector<Rotation> rotations;
  const int64_t context = limits.max_positions > 0 ? limits.max_positions : config.max_positions;
  for (const LayerGroup& group : LayerGroups(config)) {
    for (size_t i = 0; i < group.layers.size(); ++i) {
      places[static_cast<size_t>(group.layers[i])] = {rotations.size(), static_cast<int32_t>(i)};
    }
    rotations.push_back(
        {RopeFrequencies(*group.rope, config.head_dim, context), group.rope->attention_factor});
  }
  return std::unique_ptr<Model>(new Model(std::unique_ptr<State>(new State{
      .config = config,
      .weights = weights,
      .limits = limits,
      .backend = backend,
      .dtype = weights.dtype(),
      .places = std::move(places),
      .rotations = std::move(rotations),
      .at = at,
      .workspace = std::move(workspace),
      .position_rows = {},
  })));
}

absl::Status Model::Run(const StepInput& input, std::byte* kv_pool, const KvLayout& kv) {
  State& s = *state_;
  const auto num_rows = static_cast<int32_t>(input.token_ids.size());
  RS_CHECK(num_rows <= s.limits.max_rows);
  RS_CHECK(static_cast<int64_t>(input.positions.size()) <=
           int64_t{s.limits.max_rows} + s.limits.max_sink_rows);
  RS_CHECK(input.slots.size() == input.token_ids.size());
  RS_CHECK(input.tiles->num_partials <= s.limits.max_partials);
  RS_CHECK((input.local != nullptr) == (s.rotations.size() == 2));
  RS_CHECK(input.local == nullptr || input.local->tiles->num_partials <= s.limits.max_partials);
  auto* x = s.Place<float>(s.at.x);
  auto* normed = s.Place<std::byte>(s.at.normed);
  auto* projected = s.Place<float>(s.at.projected);
  StepArrays step = {.num_rows = num_rows, .positions = nullptr, .groups = {}};
  RETURN_IF_ERROR(s.Begin(input, kv_pool, kv, step));
  RETURN_IF_ERROR(s.Embed(input, step));
  const float* residual = nullptr;
  for (int32_t i = 0; i < s.config.num_layers; ++i) {
    const LayerWeights& layer = s.weights.layer(i);
    RETURN_IF_ERROR(s.Norm(x, residual, layer.attn_norm, normed, num_rows));
    RETURN_IF_ERROR(s.Attend(step, i));
    RETURN_IF_ERROR(s.Norm(x, projected, layer.ffn_norm, normed, num_rows));
    RETURN_IF_ERROR(s.FeedForward(layer, num_rows));
    residual = projected;
  }
  return absl::OkStatus();
}

absl::StatusOr<const float*> Model::ComputeLogits(std::span<const int32_t> rows) {
  State& s = *state_;
  RS_CHECK(static_cast<int64_t>(rows.size()) <= s.limits.max_logits_rows);
  const auto num_rows = static_cast<int32_t>(rows.size());
  auto* x = s.Place<float>(s.at.gathered_x);
  auto* projected = s.Place<float>(s.at.gathered_projected);
  auto* normed = s.Place<std::byte>(s.at.gathered_normed);
  auto* logits = s.Place<float>(s.at.logits);
  ASSIGN_OR_RETURN(const int32_t* const picked, s.Upload(rows));
  RETURN_IF_ERROR(s.Gather(picked, s.Place<float>(s.at.x), x, num_rows));
  RETURN_IF_ERROR(s.Gather(picked, s.Place<float>(s.at.projected), projected, num_rows));
  RETURN_IF_ERROR(s.Norm(x, projected, s.weights.final_norm(), normed, num_rows));
  RETURN_IF_ERROR(s.backend.MatMul({normed, s.weights.lm_head(), logits, num_rows}));
  if (s.config.logits_softcap > 0) {
    RETURN_IF_ERROR(
        s.backend.Softcap({logits, num_rows, s.config.vocab_size, s.config.logits_softcap}));
  }
  return logits;
}

const StepLimits& Model::limits() const {
  return state_->limits;
}

}  // namespace ringserve
