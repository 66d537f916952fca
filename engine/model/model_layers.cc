// The parts of a step and of a layer, each a few calls of the backend.
#include <algorithm>

#include "engine/base/check.h"
#include "engine/model/model_state.h"
#include "engine/model/position_bias.h"

namespace ringserve {

absl::Status Model::State::Norm(float* x,
                                const float* residual,
                                const NormWeights& norm,
                                std::byte* out,
                                int32_t num_rows,
                                DType out_dtype) {
  if (config.layer_norm) {
    return backend.LayerNorm({.x = x,
                              .residual_in = residual,
                              .weight = norm.weight,
                              .bias = norm.bias,
                              .out = out,
                              .num_rows = num_rows,
                              .hidden_dim = config.hidden_dim,
                              .eps = config.rms_norm_eps,
                              .out_dtype = out_dtype});
  }
  return backend.RmsNorm({.x = x,
                          .residual_in = residual,
                          .weight = norm.weight,
                          .out = out,
                          .num_rows = num_rows,
                          .hidden_dim = config.hidden_dim,
                          .eps = config.rms_norm_eps,
                          .out_dtype = out_dtype});
}

absl::StatusOr<const float*> Model::State::PreNorm(const StepArrays& step,
                                                   const float* residual,
                                                   const NormWeights& norm,
                                                   bool may_defer) {
  auto* normed = Place<std::byte>(at.normed);
  if (!may_defer || !defers_norms) {
    RETURN_IF_ERROR(Norm(step.x, residual, norm, normed, step.num_rows));
    return nullptr;
  }
  auto* scales = Place<float>(at.scales);
  RETURN_IF_ERROR(backend.RmsNorm({.x = step.x,
                                   .residual_in = residual,
                                   .weight = norm.weight,
                                   .out = normed,
                                   .num_rows = step.num_rows,
                                   .hidden_dim = config.hidden_dim,
                                   .eps = config.rms_norm_eps,
                                   .out_dtype = dtype,
                                   .scales = scales}));
  return scales;
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
  step.position_bias = weights.position_bias();
  step.cross_tiles = input.cross_tiles;
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

absl::Status Model::State::Embed(std::span<const int32_t> token_ids,
                                 std::span<const int64_t> positions,
                                 float* out) {
  const auto num_rows = static_cast<int32_t>(token_ids.size());
  ASSIGN_OR_RETURN(const int32_t* const uploaded, Upload(token_ids));
  EmbedArgs args = {.token_ids = uploaded,
                    .table = weights.embedding().data,
                    .out = out,
                    .num_rows = num_rows,
                    .hidden_dim = config.hidden_dim,
                    .vocab_size = config.vocab_size,
                    .table_dtype = weights.embedding().dtype,
                    .scale = config.embedding_scale};
  RETURN_IF_ERROR(backend.Embed(args));
  if (!config.learned_positions) {
    return absl::OkStatus();
  }
  position_rows.clear();
  for (const int64_t position : positions.first(token_ids.size())) {
    RS_CHECK(position < config.max_positions);
    position_rows.push_back(static_cast<int32_t>(position));
  }
  ASSIGN_OR_RETURN(args.token_ids, Upload(std::span<const int32_t>(position_rows)));
  args.table = weights.positions().data;
  args.table_dtype = weights.positions().dtype;
  args.vocab_size = static_cast<int32_t>(config.max_positions);
  args.scale = 1.0F;
  args.accumulate = true;
  return backend.Embed(args);
}

absl::Status Model::State::Encode(const EncoderStep& input,
                                  std::byte* kv_pool,
                                  const KvLayout& kv) {
  const auto num_rows = static_cast<int32_t>(input.token_ids.size());
  const int32_t end_layer = std::min(input.end_layer, config.num_encoder_layers);
  RS_CHECK(input.first_layer >= 0);
  RS_CHECK(input.first_layer < end_layer);
  StepArrays step = {.num_rows = num_rows,
                     .x = Place<float>(at.encoder_x),
                     .position_bias = weights.encoder_position_bias()};
  GroupArrays& group = step.groups[0];
  group.tiles = input.tiles;
  group.kv_pool = Place<std::byte>(at.encoder_kv);
  group.kv = EncoderKv(config, kv.block_size, dtype);
  ASSIGN_OR_RETURN(group.slots, Upload(input.scratch_slots));
  step.positions = group.slots;  // nothing is rotated, wherever it stands
  RETURN_IF_ERROR(Rotate(0, num_rows, step));
  if (input.first_layer == 0) {
    RETURN_IF_ERROR(Embed(input.token_ids, {}, step.x));
  }
  RETURN_IF_ERROR(
      RunLayers(step, config.num_layers + input.first_layer, end_layer - input.first_layer));
  auto* normed = Place<std::byte>(at.normed);
  auto* projected = Place<float>(at.projected);
  if (end_layer < config.num_encoder_layers) {
    // The norm itself is made again: what counts is that x has all that was to be added.
    const LayerWeights& next = weights.layer(config.num_layers + end_layer);
    return Norm(step.x, projected, next.attn_norm, normed, num_rows);
  }
  RETURN_IF_ERROR(Norm(step.x, projected, weights.encoder_norm(), normed, num_rows));
  ASSIGN_OR_RETURN(const int64_t* const slots, Upload(input.slots));
  auto* keys_and_values = Place<float>(at.qkv);
  for (int32_t i = 0; i < config.num_layers; ++i) {
    RETURN_IF_ERROR(backend.MatMul({normed, weights.layer(i).cross_kv, keys_and_values, num_rows}));
    RETURN_IF_ERROR(backend.RopeAppend({.qkv = keys_and_values,
                                        .angles = group.angles,
                                        .slots = slots,
                                        .kv = {kv_pool, kv, places[static_cast<size_t>(i)].layer},
                                        .num_rows = num_rows,
                                        .num_heads = 0,
                                        .q_dtype = dtype}));
  }
  return absl::OkStatus();
}

absl::Status Model::State::RunLayers(const StepArrays& step, int32_t first, int32_t count) {
  const auto* projected = Place<float>(at.projected);
  const float* residual = nullptr;
  for (int32_t i = first; i < first + count; ++i) {
    const LayerWeights& layer = weights.layer(i);
    ASSIGN_OR_RETURN(const float* scales, PreNorm(step, residual, layer.attn_norm));
    RETURN_IF_ERROR(Attend(step, i, scales));
    if (step.cross_tiles != nullptr) {
      ASSIGN_OR_RETURN(scales, PreNorm(step, projected, layer.cross_norm));
      RETURN_IF_ERROR(AttendAcross(step, i, scales));
    }
    // A router and its experts read what is normalised.
    ASSIGN_OR_RETURN(scales, PreNorm(step, projected, layer.ffn_norm, layer.experts.empty()));
    RETURN_IF_ERROR(FeedForward(layer, step.num_rows, scales));
    residual = projected;
  }
  return absl::OkStatus();
}

absl::Status Model::State::Score(const TilePlan& tiles,
                                 const KvView& kv,
                                 const StepArrays& step,
                                 int32_t index,
                                 const float* position_bias) {
  const int64_t q_dim = int64_t{config.num_heads} * config.head_dim;
  return backend.Attention({.plan = &tiles,
                            .q = Place<std::byte>(at.q),
                            .kv = kv,
                            .out = Place<std::byte>(at.attended),
                            .q_stride = q_dim,
                            .out_stride = q_dim,
                            .num_heads = config.num_heads,
                            .scale = config.AttentionScale(index),
                            .q_dtype = dtype,
                            .out_dtype = dtype,
                            .angles = step.groups[places[static_cast<size_t>(index)].group].angles,
                            .softcap = config.attention_softcap,
                            .sink_logits = weights.layer(index).sinks,
                            .position_bias = position_bias,
                            .bias_reach = BiasReach(config.position_bias),
                            .workspace = Place<float>(at.partials)});
}

absl::Status Model::State::Attend(const StepArrays& step, int32_t index, const float* scales) {
  const LayerWeights& layer = weights.layer(index);
  const LayerPlace& place = places[static_cast<size_t>(index)];
  const GroupArrays& group = step.groups[place.group];
  const KvView kv = {group.kv_pool, group.kv, step.shares_blocks ? index : place.layer};
  const int32_t num_rows = step.num_rows;
  auto* qkv = Place<float>(at.qkv);
  RETURN_IF_ERROR(backend.MatMul({.x = Place<std::byte>(at.normed),
                                  .weight = layer.qkv,
                                  .out = qkv,
                                  .num_rows = num_rows,
                                  .bias = layer.qkv_bias,
                                  .row_scales = scales}));
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
  RETURN_IF_ERROR(Score(*group.tiles, kv, step, index, step.position_bias));
  auto* projected = Place<float>(at.projected);
  RETURN_IF_ERROR(backend.MatMul(
      {Place<std::byte>(at.attended), layer.o_proj, projected, num_rows, layer.o_bias}));
  return PostNorm(layer.post_attn_norm, num_rows);
}

// To what the encoder made of each row's prompt.
absl::Status Model::State::AttendAcross(const StepArrays& step,
                                        int32_t index,
                                        const float* scales) {
  const LayerWeights& layer = weights.layer(index);
  const LayerPlace& place = places[static_cast<size_t>(index)];
  const GroupArrays& group = step.groups[place.group];
  auto* queries = Place<float>(at.qkv);
  KvLayout no_keys = group.kv;
  no_keys.num_kv_heads = 0;
  RETURN_IF_ERROR(backend.MatMul({.x = Place<std::byte>(at.normed),
                                  .weight = layer.cross_q,
                                  .out = queries,
                                  .num_rows = step.num_rows,
                                  .row_scales = scales}));
  RETURN_IF_ERROR(backend.RopeAppend({.qkv = queries,
                                      .angles = group.angles,
                                      .slots = group.slots,
                                      .q = Place<std::byte>(at.q),
                                      .kv = {group.kv_pool, no_keys, place.layer},
                                      .num_rows = step.num_rows,
                                      .num_heads = config.num_heads,
                                      .q_dtype = dtype}));
  RETURN_IF_ERROR(
      Score(*step.cross_tiles, {group.kv_pool, group.kv, place.layer}, step, index, nullptr));
  return backend.MatMul(
      {Place<std::byte>(at.attended), layer.cross_o, Place<float>(at.projected), step.num_rows});
}

absl::Status Model::State::FeedForward(const LayerWeights& layer,
                                       int32_t num_rows,
                                       const float* scales) {
  if (!layer.experts.empty()) {
    RETURN_IF_ERROR(Mix(layer, num_rows));
    return PostNorm(layer.post_ffn_norm, num_rows);
  }
  auto* gate_up = Place<float>(at.gate_up);
  auto* activated = Place<std::byte>(at.activated);
  const MatMulArgs product = {.x = Place<std::byte>(at.normed),
                              .weight = layer.gate_up,
                              .out = gate_up,
                              .num_rows = num_rows,
                              .bias = layer.gate_up_bias,
                              .row_scales = scales};
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

absl::Status Model::State::FinalNorm(std::span<const int32_t> rows,
                                     std::byte* out,
                                     DType out_dtype) {
  const auto num_rows = static_cast<int32_t>(rows.size());
  auto* gathered = Place<float>(at.gathered_x);
  auto* residual = Place<float>(at.gathered_projected);
  ASSIGN_OR_RETURN(const int32_t* const picked, Upload(rows));
  RETURN_IF_ERROR(Gather(picked, Place<float>(at.x), gathered, num_rows));
  RETURN_IF_ERROR(Gather(picked, Place<float>(at.projected), residual, num_rows));
  return Norm(gathered, residual, weights.final_norm(), out, num_rows, out_dtype);
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
