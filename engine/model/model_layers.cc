// The parts of a layer, each a few calls of the backend.
#include "engine/base/check.h"
#include "engine/model/model_state.h"

namespace ringserve {

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

}  // namespace ringserve
