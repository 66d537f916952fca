// The names and shapes of a family's tensors in a checkpoint, in the order in which they are
// loaded.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/model_config.h"

namespace ringserve {

struct TensorSpec {
  std::string name;
  int64_t rows = 0;
  int64_t cols = 0;  // 0: a vector of `rows`
};

struct LayerTensors {
  TensorSpec attn_norm, q, k, v, o, ffn_norm, gate, up, down;

  std::vector<const TensorSpec*> all() const {
    return {&attn_norm, &q, &k, &v, &o, &ffn_norm, &gate, &up, &down};
  }
};

TensorSpec EmbeddingTensor(const ModelConfig& config);
LayerTensors TensorsOfLayer(const ModelConfig& config, int32_t layer);
TensorSpec FinalNormTensor(const ModelConfig& config);
// Where embeddings are tied a checkpoint may still hold it; it is not used then.
TensorSpec LmHeadTensor(const ModelConfig& config);

// Tensors that old checkpoints carry and that say nothing that the config does not say.
bool IsIgnoredTensor(std::string_view name);

}  // namespace ringserve
