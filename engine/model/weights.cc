#include "engine/model/weights.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "engine/base/check.h"
#include "engine/model/position_bias.h"
#include "engine/model/slab_size.h"
#include "engine/model/tensor_names.h"
#include "engine/model/tensor_source.h"

namespace ringserve {

// Fills the slab from front to back.
class WeightsBuilder {
 public:
  WeightsBuilder(const ModelConfig& config,
                 DType dtype,
                 TensorSource& source,
                 Backend& backend,
                 const LoadProgress& progress)
      : config_(config),
        source_(source),
        backend_(backend),
        progress_(progress),
        weights_(new Weights()) {
    weights_->dtype_ = dtype;
  }

  absl::StatusOr<std::unique_ptr<Weights>> Build() {
    slab_bytes_ = Weights::SlabBytes(config_, weights_->dtype_, backend_);
    ASSIGN_OR_RETURN(weights_->slab_,
                     backend_.Allocate(static_cast<size_t>(slab_bytes_), MemoryKind::kDevice));
    for (int32_t layer = 0; layer < config_.num_all_layers(); ++layer) {
      RETURN_IF_ERROR(AddLayer(TensorsOfLayer(config_, layer)));
    }
    const ModelTensors model = TensorsOfModel(config_);
    RETURN_IF_ERROR(AddNorm(model.final_norm, weights_->final_norm_, config_.output_scale));
    RETURN_IF_ERROR(AddNorm(model.encoder_norm, weights_->encoder_norm_));
    RETURN_IF_ERROR(AddBias(model.position_bias, false, weights_->position_bias_));
    RETURN_IF_ERROR(AddBias(model.encoder_position_bias, true, weights_->encoder_position_bias_));
    const float* positions = nullptr;
    RETURN_IF_ERROR(AddFloats(model.positions, 0, positions));
    weights_->positions_ = {reinterpret_cast<const std::byte*>(positions), DType::kF32};
    RETURN_IF_ERROR(AddEmbedding(model.embedding));
    if (!config_.tied_embeddings) {
      RETURN_IF_ERROR(AddMatrix({model.lm_head}, weights_->lm_head_));
    }
    RS_CHECK(used_ == slab_bytes_);
    return std::move(weights_);
  }

  // What Build left in the source: the table that the weights point to, if they do.
  const HostTensor& table() const { return table_; }

  static void Own(Weights& weights, std::unique_ptr<Checkpoint> checkpoint) {
    weights.checkpoint_ = std::move(checkpoint);
  }

  static void Own(Weights& weights, std::unique_ptr<std::byte[]> table) {
    weights.host_table_ = std::move(table);
  }

 private:
  std::byte* Carve(int64_t bytes) {
    std::byte* at = weights_->slab_.data() + used_;
    used_ += bytes;
    RS_CHECK(used_ <= slab_bytes_);
    return at;
  }

  void Report() const {
    if (progress_) {
      progress_(static_cast<double>(used_) / static_cast<double>(slab_bytes_));
    }
  }

  // The copy may still be under way when it returns, so the source waits for it.
  absl::Status CopyIn(std::byte* to, const std::vector<std::byte>& from) {
    RETURN_IF_ERROR(backend_.Copy(to, from.data(), from.size()));
    return backend_.Synchronize();
  }

  // The parts in float32, each element plus `added`, times `scale`; null where there are none.
  absl::Status AddFloats(const TensorParts& parts,
                         float added,
                         const float*& floats,
                         float scale = 1.0F) {
    if (parts.empty()) {
      return absl::OkStatus();
    }
    std::byte* at = Carve(FloatBytes(parts));
    floats = reinterpret_cast<const float*>(at);
    for (const TensorSpec& spec : parts) {
      const HostTensor tensor = source_.Get(spec);
      std::vector<std::byte> values = Converted(tensor, 0, tensor.rows * tensor.cols, DType::kF32);
      auto* value = reinterpret_cast<float*>(values.data());
      for (int64_t i = 0; i < tensor.rows * tensor.cols; ++i) {
        value[i] = (value[i] + added) * scale;
      }
      RETURN_IF_ERROR(CopyIn(at, values));
      at += values.size();
      source_.Release(tensor);
    }
    return absl::OkStatus();
  }

  // What it makes is multiplied by `scale`.
  absl::Status AddNorm(const NormTensors& tensors, NormWeights& norm, float scale = 1.0F) {
    const float added = config_.norm_plus_one ? 1.0F : 0.0F;
    RETURN_IF_ERROR(AddFloats(tensors.weight, added, norm.weight, scale));
    return AddFloats(tensors.bias, 0, norm.bias, scale);
  }

  absl::Status AddBias(const TensorParts& parts, bool bidirectional, const float*& bias) {
    if (parts.empty()) {
      return absl::OkStatus();
    }
    const HostTensor tensor = source_.Get(parts.front());
    const int64_t count = tensor.rows * tensor.cols;
    const std::vector<std::byte> values = Converted(tensor, 0, count, DType::kF32);
    const std::vector<float> table =
        BiasTable(config_.position_bias,
                  bidirectional,
                  {reinterpret_cast<const float*>(values.data()), static_cast<size_t>(count)},
                  config_.num_heads);
    std::byte* at = Carve(BiasBytes(config_));
    bias = reinterpret_cast<const float*>(at);
    const auto* first = reinterpret_cast<const std::byte*>(table.data());
    RETURN_IF_ERROR(CopyIn(at, {first, first + table.size() * sizeof(float)}));
    source_.Release(tensor);
    return absl::OkStatus();
  }

  absl::Status Pack(const std::vector<HostTensor>& parts, Matrix& matrix) {
    int64_t rows = 0;
    for (const HostTensor& part : parts) {
      rows += part.rows;
    }
    const size_t bytes = backend_.MatrixBytes(rows, parts.front().cols, weights_->dtype_);
    std::byte* at = Carve(static_cast<int64_t>(bytes));
    ASSIGN_OR_RETURN(matrix, backend_.PackMatrix(parts, weights_->dtype_, at));
    RETURN_IF_ERROR(backend_.Synchronize());
    Report();
    return absl::OkStatus();
  }

  absl::Status AddMatrix(const std::vector<TensorSpec>& specs, Matrix& matrix) {
    std::vector<HostTensor> parts;
    parts.reserve(specs.size());
    for (const TensorSpec& spec : specs) {
      parts.push_back(source_.Get(spec));
    }
    RETURN_IF_ERROR(Pack(parts, matrix));
    for (const HostTensor& part : parts) {
      source_.Release(part);
    }
    return absl::OkStatus();
  }

  absl::Status AddLinear(const LinearTensors& linear, Matrix& matrix, const float*& bias) {
    if (linear.weight.empty()) {
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(AddMatrix(linear.weight, matrix));
    return AddFloats(linear.bias, 0, bias);
  }

  absl::Status AddLayer(const LayerTensors& tensors) {
    LayerWeights& layer = weights_->layers_.emplace_back();
    RETURN_IF_ERROR(AddNorm(tensors.attn_norm, layer.attn_norm));
    RETURN_IF_ERROR(AddLinear(tensors.qkv, layer.qkv, layer.qkv_bias));
    RETURN_IF_ERROR(AddNorm(tensors.q_norm, layer.q_norm));
    RETURN_IF_ERROR(AddNorm(tensors.k_norm, layer.k_norm));
    RETURN_IF_ERROR(AddFloats(tensors.sinks, 0, layer.sinks));
    RETURN_IF_ERROR(AddLinear(tensors.o, layer.o_proj, layer.o_bias));
    RETURN_IF_ERROR(AddNorm(tensors.post_attn_norm, layer.post_attn_norm));
    RETURN_IF_ERROR(AddNorm(tensors.cross_norm, layer.cross_norm));
    const float* none = nullptr;  // no family has biases there
    RETURN_IF_ERROR(AddLinear(tensors.cross_q, layer.cross_q, none));
    RETURN_IF_ERROR(AddLinear(tensors.cross_kv, layer.cross_kv, none));
    RETURN_IF_ERROR(AddLinear(tensors.cross_o, layer.cross_o, none));
    RETURN_IF_ERROR(AddNorm(tensors.ffn_norm, layer.ffn_norm));
    RETURN_IF_ERROR(AddLinear(tensors.gate_up, layer.gate_up, layer.gate_up_bias));
    RETURN_IF_ERROR(AddLinear(tensors.down, layer.down, layer.down_bias));
    RETURN_IF_ERROR(AddLinear(tensors.router, layer.router, layer.router_bias));
    for (const ExpertTensors& expert : tensors.experts) {
      ExpertWeights& weights = layer.experts.emplace_back();
      RETURN_IF_ERROR(AddLinear(expert.gate_up, weights.gate_up, weights.gate_up_bias));
      RETURN_IF_ERROR(AddLinear(expert.down, weights.down, weights.down_bias));
    }
    return AddNorm(tensors.post_ffn_norm, layer.post_ffn_norm);
  }

  absl::Status CopyTable(std::byte* to) {
    const DType dtype = weights_->dtype_;
    const int64_t rows_at_once = std::max<int64_t>(1, (int64_t{1} << 22) / table_.cols);
    for (int64_t row = 0; row < table_.rows; row += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, table_.rows - row);
      const int64_t first = row * table_.cols;
      RETURN_IF_ERROR(CopyIn(to + first * DTypeBytes(dtype),
                             Converted(table_, first, rows * table_.cols, dtype)));
    }
    weights_->embedding_ = {.data = to, .dtype = dtype};
    return absl::OkStatus();
  }

  absl::Status AddEmbedding(const TensorSpec& spec) {
    table_ = source_.Get(spec);
    if (config_.tied_embeddings) {
      RETURN_IF_ERROR(Pack({table_}, weights_->lm_head_));
    }
    const BackendInfo info = backend_.info();
    if (info.reads_host_memory) {
      weights_->embedding_ = {.data = table_.data, .dtype = table_.dtype};
      return absl::OkStatus();
    }
    if (info.row_major && config_.tied_embeddings) {
      weights_->embedding_ = {.data = weights_->lm_head_.data, .dtype = weights_->dtype_};
      return absl::OkStatus();
    }
    std::byte* at = Carve(TableBytes(config_, weights_->dtype_, backend_));
    if (info.row_major) {
      RETURN_IF_ERROR(backend_.PackMatrix({&table_, 1}, weights_->dtype_, at).status());
      RETURN_IF_ERROR(backend_.Synchronize());
      weights_->embedding_ = {.data = at, .dtype = weights_->dtype_};
    } else {
      RETURN_IF_ERROR(CopyTable(at));
    }
    Report();
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  TensorSource& source_;
  Backend& backend_;
  const LoadProgress& progress_;
  std::unique_ptr<Weights> weights_;
  HostTensor table_;
  int64_t slab_bytes_ = 0;
  int64_t used_ = 0;
};

Weights::~Weights() = default;

absl::StatusOr<std::unique_ptr<Weights>> Weights::Load(const std::string& model_dir,
                                                       const ModelConfig& config,
                                                       DType dtype,
                                                       Backend& backend,
                                                       const LoadProgress& progress) {
  ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(model_dir));
  const std::vector<std::string> problems = WeightProblems(config, *checkpoint);
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        problems.size() == 1
            ? problems.front()
            : fmt::format("{} (the first of {} problems)", problems.front(), problems.size()));
  }
  CheckpointSource source(*checkpoint);
  WeightsBuilder builder(config, dtype, source, backend, progress);
  ASSIGN_OR_RETURN(std::unique_ptr<Weights> weights, builder.Build());
  source.Release(builder.table());
  if (backend.info().reads_host_memory) {
    WeightsBuilder::Own(*weights, std::move(checkpoint));
  }
  return weights;
}

absl::StatusOr<std::unique_ptr<Weights>> Weights::Random(const ModelConfig& config,
                                                         DType dtype,
                                                         uint64_t seed,
                                                         Backend& backend,
                                                         const LoadProgress& progress) {
  RandomSource source(dtype, seed);
  WeightsBuilder builder(config, dtype, source, backend, progress);
  ASSIGN_OR_RETURN(std::unique_ptr<Weights> weights, builder.Build());
  if (backend.info().reads_host_memory) {
    WeightsBuilder::Own(*weights, source.Keep(builder.table()));
  }
  return weights;
}

}  // namespace ringserve
