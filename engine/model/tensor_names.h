// The names, shapes and layouts of a family's tensors in a checkpoint, in the order in which they
// are loaded.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/model_config.h"

namespace ringserve {

// A matrix [rows, cols] or a vector [rows], as it is used; and how it lies in its file.
struct TensorSpec {
  std::string name;
  int64_t rows = 0;
  int64_t cols = 0;                 // 0: a vector of `rows`
  bool transposed = false;          // [cols, rows] in the file
  int64_t num_slices = 0;           // not 0: the file has this many in one tensor, slices first
  int64_t slice = 0;                // which one this is
  std::vector<int32_t> order = {};  // row i is the file's row order[i]; empty: as they lie

  bool is_plain() const { return !transposed && num_slices == 0 && order.empty(); }
};

// Tensors that make up one weight, stacked by rows.
using TensorParts = std::vector<TensorSpec>;

struct LinearTensors {
  TensorParts weight;
  TensorParts bias;  // empty: there is none
};

struct NormTensors {
  TensorParts weight;  // empty: there is no such norm
  TensorParts bias;
};

struct ExpertTensors {
  LinearTensors gate_up;
  LinearTensors down;
};

struct LayerTensors {
  NormTensors attn_norm;
  LinearTensors qkv;
  NormTensors q_norm;  // of a head
  NormTensors k_norm;
  TensorParts sinks;
  LinearTensors o;
  NormTensors post_attn_norm;
  NormTensors cross_norm;  // of a decoder that attends to an encoder
  LinearTensors cross_q;
  LinearTensors cross_kv;
  LinearTensors cross_o;
  NormTensors ffn_norm;
  LinearTensors gate_up;  // dense layers; without a gate the first product
  LinearTensors down;
  LinearTensors router;  // layers of experts
  std::vector<ExpertTensors> experts;
  NormTensors post_ffn_norm;

  std::vector<const TensorSpec*> all() const;
};

struct ModelTensors {
  TensorSpec embedding;
  TensorParts positions;      // learned positions; empty: none
  TensorParts position_bias;  // [num_buckets, num_heads] of the decoder; empty: none
  TensorParts encoder_position_bias;
  NormTensors encoder_norm;
  NormTensors final_norm;
  // Where embeddings are tied a checkpoint may still hold it; it is not used then.
  TensorSpec lm_head;
};

ModelTensors TensorsOfModel(const ModelConfig& config);
// `layer` in [0, num_all_layers): the decoder's, then the encoder's.
LayerTensors TensorsOfLayer(const ModelConfig& config, int32_t layer);

// Tensors that old checkpoints carry and that say nothing that the config does not say.
bool IsIgnoredTensor(std::string_view name);

}  // namespace ringserve
