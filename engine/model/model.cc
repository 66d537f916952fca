#include "engine/model/model.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/model/weights.h"

namespace ringserve {
namespace {

constexpr int64_t kAlignment = 128;

// The workspace as offsets: attention and feed-forward buffers are never alive together, so they
// share one region.
struct Workspace {
  int64_t angles, x, projected, normed;
  int64_t qkv, q, attended;    // attention's share of the common region
  int64_t gate_up, activated;  // feed-forward's
  int64_t partials;
  int64_t gathered_x, gathered_projected, gathered_normed, logits;
  int64_t bytes;
};

Workspace Carve(const ModelConfig& config, DType dtype, const StepLimits& limits) {
  Workspace at{};
  int64_t end = 0;
  const auto take = [&end](int64_t count, int64_t element_bytes) {
    const int64_t offset = end;
    end += RoundUp(count * element_bytes, kAlignment);
    return offset;
  };
  const int64_t rows = limits.max_rows;
  const int64_t logits_rows = limits.max_logits_rows;
  const int64_t element = DTypeBytes(dtype);
  const int64_t q_dim = int64_t{config.num_heads} * config.head_dim;
  const int64_t qkv_dim = q_dim + int64_t{2} * config.num_kv_heads * config.head_dim;
  at.angles = take((rows + limits.max_sink_rows) * config.head_dim, sizeof(float));
  at.x = take(rows * config.hidden_dim, sizeof(float));
  at.projected = take(rows * config.hidden_dim, sizeof(float));
  at.normed = take(rows * config.hidden_dim, element);
  const int64_t common = end;
  at.qkv = take(rows * qkv_dim, sizeof(float));
  at.q = take(rows * q_dim, element);
  at.attended = take(rows * q_dim, element);
  at.partials = take(limits.max_partials * (config.head_dim + 2), sizeof(float));
  const int64_t attention_end = end;
  end = common;
  at.gate_up = take(rows * 2 * config.ffn_dim, sizeof(float));
  at.activated = take(rows * config.ffn_dim, element);
  end = std::max(end, attention_end);
  at.gathered_x = take(logits_rows * config.hidden_dim, sizeof(float));
  at.gathered_projected = take(logits_rows * config.hidden_dim, sizeof(float));
  at.gathered_normed = take(logits_rows * config.hidden_dim, element);
  at.logits = take(logits_rows * config.vocab_size, sizeof(float));
  at.bytes = end;
  return at;
}

}  // namespace

namespace {

// A step as the ops read it: in the backend's memory, but for `tiles`.
struct StepArrays {
  int32_t num_rows = 0;
  const int64_t* slots = nullptr;
  const int64_t* sink_slots = nullptr;  // null: no row writes a sink
  const TilePlan* tiles = nullptr;
};

}  // namespace

struct Model::State {
  ModelConfig config;
  const Weights& weights;
  StepLimits limits;
  Backend& backend;
  DType dtype;
  std::vector<double> frequencies;
  Workspace at;
  Buffer workspace;

  template <typename T>
  T* Place(int64_t offset) const {
    return reinterpret_cast<T*>(workspace.data() + offset);
  }

  // x += residual; out = norm(x) * weight.
  absl::Status Norm(
      float* x, const float* residual, const float* weight, std::byte* out, int32_t num_rows) {
    return backend.RmsNorm({.x = x,
                            .residual_in = residual,
                            .weight = weight,
                            .out = out,
                            .num_rows = num_rows,
                            .hidden_dim = config.hidden_dim,
                            .eps = config.rms_norm_eps,
                            .out_dtype = dtype});
  }

  absl::Status Attend(const StepArrays& step, const LayerWeights& layer, const KvView& kv);
  absl::Status FeedForward(const LayerWeights& layer, int32_t num_rows);
  absl::Status Gather(const int32_t* rows, const float* from, float* to, int32_t num_rows);

  template <typename T>
  absl::StatusOr<const T*> Upload(std::span<const T> values) {
    ASSIGN_OR_RETURN(
        const std::byte* bytes,
        backend.Upload(reinterpret_cast<const std::byte*>(values.data()), values.size_bytes()));
    return reinterpret_cast<const T*>(bytes);
  }
};

absl::Status Model::State::Attend(const StepArrays& step,
                                  const LayerWeights& layer,
                                  const KvView& kv) {
  const int32_t num_rows = step.num_rows;
  auto* normed = Place<std::byte>(at.normed);
  auto* qkv = Place<float>(at.qkv);
  const int64_t q_dim = int64_t{config.num_heads} * config.head_dim;
  RETURN_IF_ERROR(backend.MatMul({normed, layer.qkv, qkv, num_rows}));
  RETURN_IF_ERROR(backend.RopeAppend({.qkv = qkv,
                                      .angles = Place<float>(at.angles),
                                      .slots = step.slots,
                                      .sink_slots = step.sink_slots,
                                      .q = Place<std::byte>(at.q),
                                      .kv = kv,
                                      .num_rows = num_rows,
                                      .num_heads = config.num_heads,
                                      .q_dtype = dtype}));
  RETURN_IF_ERROR(backend.Attention({.plan = step.tiles,
                                     .q = Place<std::byte>(at.q),
                                     .kv = kv,
                                     .out = Place<std::byte>(at.attended),
                                     .q_stride = q_dim,
                                     .out_stride = q_dim,
                                     .num_heads = config.num_heads,
                                     .scale = 1.0F / std::sqrt(static_cast<float>(config.head_dim)),
                                     .q_dtype = dtype,
                                     .out_dtype = dtype,
                                     .angles = Place<float>(at.angles),
                                     .workspace = Place<float>(at.partials)}));
  return backend.MatMul(
      {Place<std::byte>(at.attended), layer.o_proj, Place<float>(at.projected), num_rows});
}

absl::Status Model::State::FeedForward(const LayerWeights& layer, int32_t num_rows) {
  auto* gate_up = Place<float>(at.gate_up);
  auto* activated = Place<std::byte>(at.activated);
  RETURN_IF_ERROR(
      backend.MatMulSwiGlu({Place<std::byte>(at.normed), layer.gate_up, gate_up, num_rows},
                           {gate_up, activated, num_rows, config.ffn_dim, dtype}));
  return backend.MatMul({activated, layer.down, Place<float>(at.projected), num_rows});
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
  return Carve(config, dtype, limits).bytes;
}

absl::StatusOr<std::unique_ptr<Model>> Model::Create(const ModelConfig& config,
                                                     const Weights& weights,
                                                     const StepLimits& limits,
                                                     Backend& backend) {
  const Workspace at = Carve(config, weights.dtype(), limits);
  ASSIGN_OR_RETURN(Buffer workspace,
                   backend.Allocate(static_cast<size_t>(at.bytes), MemoryKind::kDevice));
  RETURN_IF_ERROR(backend.PrepareSteps(config, weights.dtype(), limits));
  return std::unique_ptr<Model>(new Model(std::unique_ptr<State>(new State{
      .config = config,
      .weights = weights,
      .limits = limits,
      .backend = backend,
      .dtype = weights.dtype(),
      .frequencies = RopeFrequencies(config.rope, config.head_dim),
      .at = at,
      .workspace = std::move(workspace),
  })));
}

absl::Status Model::Run(const StepInput& input, std::byte* kv_pool, const KvLayout& kv) {
  State& s = *state_;
  const auto num_rows = static_cast<int32_t>(input.token_ids.size());
  const auto num_angles = static_cast<int32_t>(input.positions.size());
  RS_CHECK(num_rows <= s.limits.max_rows);
  RS_CHECK(num_angles <= s.limits.max_rows + s.limits.max_sink_rows);
  RS_CHECK(input.slots.size() == input.token_ids.size());
  RS_CHECK(input.tiles->num_partials <= s.limits.max_partials);

  auto* x = s.Place<float>(s.at.x);
  auto* normed = s.Place<std::byte>(s.at.normed);
  auto* projected = s.Place<float>(s.at.projected);
  RETURN_IF_ERROR(s.backend.BeginStep(*input.tiles));
  ASSIGN_OR_RETURN(const int32_t* const token_ids, s.Upload(input.token_ids));
  ASSIGN_OR_RETURN(const int64_t* const positions, s.Upload(input.positions));
  ASSIGN_OR_RETURN(const double* const frequencies,
                   s.Upload(std::span<const double>(s.frequencies)));
  StepArrays step = {.num_rows = num_rows, .tiles = input.tiles};
  ASSIGN_OR_RETURN(step.slots, s.Upload(input.slots));
  if (!input.sink_slots.empty()) {
    ASSIGN_OR_RETURN(step.sink_slots, s.Upload(input.sink_slots));
  }
  RETURN_IF_ERROR(s.backend.RopeAngles({.positions = positions,
                                        .frequencies = frequencies,
                                        .angles = s.Place<float>(s.at.angles),
                                        .num_rows = num_angles,
                                        .head_dim = s.config.head_dim}));
  RETURN_IF_ERROR(s.backend.Embed({.token_ids = token_ids,
                                   .table = s.weights.embedding().data,
                                   .out = x,
                                   .num_rows = num_rows,
                                   .hidden_dim = s.config.hidden_dim,
                                   .vocab_size = s.config.vocab_size,
                                   .table_dtype = s.weights.embedding().dtype}));
  const float* residual = nullptr;
  for (int32_t i = 0; i < s.config.num_layers; ++i) {
    const LayerWeights& layer = s.weights.layer(i);
    RETURN_IF_ERROR(s.Norm(x, residual, layer.attn_norm, normed, num_rows));
    RETURN_IF_ERROR(s.Attend(step, layer, {kv_pool, kv, i}));
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
  return logits;
}

const StepLimits& Model::limits() const {
  return state_->limits;
}

}  // namespace ringserve
