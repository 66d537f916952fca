#include "engine/model/slab_size.h"

#include <algorithm>

#include "engine/model/position_bias.h"
#include "engine/model/weights.h"

namespace ringserve {
namespace {

constexpr int64_t kAlignment = 128;

int64_t Rows(const TensorParts& parts) {
  int64_t rows = 0;
  for (const TensorSpec& spec : parts) {
    rows += spec.rows;
  }
  return rows;
}

class SlabSize {
 public:
  SlabSize(DType dtype, const Backend& backend) : dtype_(dtype), backend_(backend) {}

  void AddMatrix(const TensorParts& parts) {
    if (!parts.empty()) {
      bytes_ += static_cast<int64_t>(backend_.MatrixBytes(Rows(parts), parts.front().cols, dtype_));
    }
  }

  void AddFloats(const TensorParts& parts) { bytes_ += FloatBytes(parts); }

  void AddNorm(const NormTensors& norm) {
    AddFloats(norm.weight);
    AddFloats(norm.bias);
  }

  void AddLinear(const LinearTensors& linear) {
    AddMatrix(linear.weight);
    AddFloats(linear.bias);
  }

  void AddLayer(const LayerTensors& tensors) {
    for (const NormTensors* norm : {&tensors.attn_norm,
                                    &tensors.q_norm,
                                    &tensors.k_norm,
                                    &tensors.post_attn_norm,
                                    &tensors.cross_norm,
                                    &tensors.ffn_norm,
                                    &tensors.post_ffn_norm}) {
      AddNorm(*norm);
    }
    AddFloats(tensors.sinks);
    for (const LinearTensors* linear : {&tensors.qkv,
                                        &tensors.o,
                                        &tensors.cross_q,
                                        &tensors.cross_kv,
                                        &tensors.cross_o,
                                        &tensors.gate_up,
                                        &tensors.down,
                                        &tensors.router}) {
      AddLinear(*linear);
    }
    for (const ExpertTensors& expert : tensors.experts) {
      AddLinear(expert.gate_up);
      AddLinear(expert.down);
    }
  }

  void AddBias(const TensorParts& parts, const ModelConfig& config) {
    bytes_ += parts.empty() ? 0 : BiasBytes(config);
  }

  int64_t bytes() const { return bytes_; }

 private:
  DType dtype_;
  const Backend& backend_;
  int64_t bytes_ = 0;
};

}  // namespace

int64_t FloatBytes(const TensorParts& parts) {
  int64_t elements = 0;
  for (const TensorSpec& spec : parts) {
    elements += spec.rows * std::max<int64_t>(spec.cols, 1);
  }
  return RoundUp<int64_t>(elements * int64_t{sizeof(float)}, kAlignment);
}

int64_t BiasBytes(const ModelConfig& config) {
  const int64_t distances = 2 * int64_t{BiasReach(config.position_bias)} + 1;
  return RoundUp<int64_t>(config.num_heads * distances * int64_t{sizeof(float)}, kAlignment);
}

int64_t TableBytes(const ModelConfig& config, DType dtype, const Backend& backend) {
  const BackendInfo info = backend.info();
  if (info.reads_host_memory || (info.row_major && config.tied_embeddings)) {
    return 0;
  }
  return RoundUp<int64_t>(int64_t{config.vocab_size} * config.hidden_dim * DTypeBytes(dtype),
                          kAlignment);
}

int64_t Weights::SlabBytes(const ModelConfig& config, DType dtype, const Backend& backend) {
  const ModelTensors model = TensorsOfModel(config);
  SlabSize size(dtype, backend);
  for (int32_t layer = 0; layer < config.num_all_layers(); ++layer) {
    size.AddLayer(TensorsOfLayer(config, layer));
  }
  size.AddNorm(model.final_norm);
  size.AddNorm(model.encoder_norm);
  size.AddBias(model.position_bias, config);
  size.AddBias(model.encoder_position_bias, config);
  size.AddFloats(model.positions);
  size.AddMatrix({model.lm_head});
  return size.bytes() + TableBytes(config, dtype, backend);
}

}  // namespace ringserve
