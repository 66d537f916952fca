#include "engine/model/model.h"

#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/model/model_state.h"

namespace ringserve {

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
  std::vector<LayerPlace> places(static_cast<size_t>(config.num_all_layers()));
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
      .defers_norms = backend.info().defers_norms && !config.layer_norm &&
                      CanDeferRmsNorm(config.hidden_dim, weights.dtype()),
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
  RS_CHECK((input.cross_tiles != nullptr) == s.config.has_encoder());
  RS_CHECK(input.local == nullptr || input.local->tiles->num_partials <= s.limits.max_partials);
  for (const TilePlan* tiles :
       {input.cross_tiles, input.encoder != nullptr ? input.encoder->tiles : nullptr}) {
    RS_CHECK(tiles == nullptr || tiles->num_partials <= s.limits.max_partials);
  }
  RETURN_IF_ERROR(
      s.backend.BeginStep({.rows = input.tiles,
                           .local = input.local == nullptr ? nullptr : input.local->tiles,
                           .cross = input.cross_tiles,
                           .encoder = input.encoder == nullptr ? nullptr : input.encoder->tiles}));
  if (input.encoder != nullptr) {
    RS_CHECK(static_cast<int64_t>(input.encoder->token_ids.size()) <= s.limits.max_encoder_rows);
    RETURN_IF_ERROR(s.Encode(*input.encoder, kv_pool, kv));
  }
  StepArrays step = {.num_rows = num_rows, .x = s.Place<float>(s.at.x)};
  RETURN_IF_ERROR(s.Begin(input, kv_pool, kv, step));
  RETURN_IF_ERROR(s.Embed(input.token_ids, input.positions, step.x));
  return s.RunLayers(step, 0, s.config.num_layers);
}

absl::StatusOr<const float*> Model::ComputeLogits(std::span<const int32_t> rows) {
  State& s = *state_;
  RS_CHECK(static_cast<int64_t>(rows.size()) <= s.limits.max_logits_rows);
  const auto num_rows = static_cast<int32_t>(rows.size());
  auto* normed = s.Place<std::byte>(s.at.gathered_normed);
  auto* logits = s.Place<float>(s.at.logits);
  RETURN_IF_ERROR(s.FinalNorm(rows, normed, s.dtype));
  RETURN_IF_ERROR(s.backend.MatMul({normed, s.weights.lm_head(), logits, num_rows}));
  if (s.config.logits_softcap > 0) {
    RETURN_IF_ERROR(
        s.backend.Softcap({logits, num_rows, s.config.vocab_size, s.config.logits_softcap}));
  }
  return logits;
}

absl::StatusOr<const float*> Model::ComputeHidden(std::span<const int32_t> rows) {
  State& s = *state_;
  RS_CHECK(static_cast<int64_t>(rows.size()) <= s.limits.max_logits_rows);
  auto* x = s.Place<float>(s.at.gathered_x);
  RETURN_IF_ERROR(s.FinalNorm(rows, reinterpret_cast<std::byte*>(x), DType::kF32));
  return x;
}

int32_t Model::hidden_dim() const {
  return state_->config.hidden_dim;
}

const StepLimits& Model::limits() const {
  return state_->limits;
}

}  // namespace ringserve
