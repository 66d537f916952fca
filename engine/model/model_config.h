// The shape of a decoder, read from a Hugging Face config.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/problems.h"
#include "engine/base/status.h"
#include "kernels/types.h"

namespace ringserve {

// Rotary embedding (Su et al. 2021) as Hugging Face lays it out: dimension i pairs with i +
// head_dim/2.
struct RopeConfig {
  enum class Kind { kDefault, kLlama3 };
  Kind kind = Kind::kDefault;
  double theta = 10000.0;
  // llama3 scaling (Llama 3.1): long wavelengths are divided by `factor`, short ones kept, a ramp
  // between.
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_position = 0;
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  int32_t vocab_size = 0;
  int32_t hidden_dim = 0;
  int32_t ffn_dim = 0;
  int32_t num_layers = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int64_t max_positions = 0;
  float rms_norm_eps = 0;
  bool tied_embeddings = false;
  RopeConfig rope;
  std::vector<int32_t> bos_token_ids;  // at most one
  std::vector<int32_t> eos_token_ids;  // generation_config.json's where it has them
  DType file_dtype = DType::kBf16;
};

// Strict about what it uses: a value that would change the result and is not supported here
// (hidden_act other than silu, attention_bias, an unknown rope_type, ...) is an error naming the
// key. Both spellings of rope ("rope_parameters", and "rope_theta" with "rope_scaling") are read.
// Keys that may be missing default as transformers defaults them. `generation_config_json` may be
// empty: there is none.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_json,
                                             std::string_view generation_config_json);

// Reads DIR/config.json and, if it is there, DIR/generation_config.json.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir);

// The same, noting everything that is wrong instead of the first thing. The result means nothing if
// something was noted.
ModelConfig ReadModelConfig(const std::string& model_dir, Problems& problems);

// Angular frequencies of the head_dim / 2 pairs, radians per position, in float64.
std::vector<double> RopeFrequencies(const RopeConfig& rope, int32_t head_dim);

}  // namespace ringserve
