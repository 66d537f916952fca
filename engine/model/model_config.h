// The shape of a decoder, or of an encoder and its decoder, read from a Hugging Face config.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/generation_defaults.h"
#include "engine/base/problems.h"
#include "engine/base/status.h"
#include "kernels/activation.h"
#include "kernels/tile_plan.h"
#include "kernels/types.h"

namespace ringserve {

// Rotary embedding (Su et al. 2021) as Hugging Face lays it out: dimension i pairs with i +
// rotary_dim/2; dimensions from rotary_dim on are left as they are.
struct RopeConfig {
  enum class Kind { kNone, kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongRope };
  Kind kind = Kind::kDefault;
  double theta = 10000.0;
  int32_t rotary_dim = 0;  // 0: the whole head
  double factor = 1.0;     // of the scalings
  // llama3 scaling (Llama 3.1): long wavelengths are divided by `factor`, short ones kept, a ramp
  // between.
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_position = 0;
  // YaRN (Peng et al. 2023): as llama3, but the ramp is over dimensions.
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;  // the ramp begins and ends at whole dimensions
  // LongRoPE (Ding et al. 2024): one divisor per pair; the long ones for contexts that may grow
  // beyond original_max_position.
  std::vector<double> short_factors = {};
  std::vector<double> long_factors = {};
  double attention_factor = 1.0;  // cosines and sines are multiplied by it
};

// Router and experts of a mixture (Shazeer et al. 2017).
struct MoeConfig {
  int32_t num_experts = 0;  // 0: every layer has one dense feed-forward
  int32_t experts_per_token = 0;
  int32_t ffn_dim = 0;
  // The weights of the chosen experts sum to 1; otherwise they are what the softmax over all
  // experts gave them.
  bool normalize = true;
  std::vector<bool> dense_layers;  // [num_layers], or empty: none is dense

  bool IsDense(int32_t layer) const {
    return num_experts == 0 || (!dense_layers.empty() && dense_layers[static_cast<size_t>(layer)]);
  }
};

// Biases of scores by distance, one for each head and bucket of distances (Raffel et al. 2020);
// all layers of a stack have the same.
struct PositionBiasConfig {
  int32_t num_buckets = 0;   // 0: none
  int32_t max_distance = 0;  // from there on all distances are in one bucket
};

// How a family names and lays out its tensors (tensor_names.h).
enum class TensorStyle { kLlama, kPhi3, kGpt2, kMixtral, kQwen3Moe, kGptOss, kT5 };

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  TensorStyle tensors = TensorStyle::kLlama;
  int32_t vocab_size = 0;
  int32_t hidden_dim = 0;
  int32_t ffn_dim = 0;
  int32_t num_layers = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int64_t max_positions = 0;
  float rms_norm_eps = 0;  // or the layer norm's
  bool tied_embeddings = false;
  RopeConfig rope;

  // What sets a family apart; the defaults are Llama's.
  bool layer_norm = false;     // mean and bias, instead of the root mean square alone
  bool norm_plus_one = false;  // norm weights are stored less 1
  bool post_norms = false;     // attention and feed-forward are normalised before they are added
  bool qk_norm = false;        // every head of queries and keys is normalised before it is rotated
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool learned_positions = false;  // a table of max_positions rows is added to the embeddings
  bool learned_sinks = false;      // a logit per head in the softmax that attends to nothing
  bool gated = true;               // the feed-forward has a gate
  Activation activation = Activation::kSilu;
  float embedding_scale = 1.0F;
  float attention_scale = 0;    // of the scores; 0: 1 / sqrt(head_dim)
  bool scale_by_layer = false;  // the scores of layer i are also divided by i + 1
  float attention_softcap = 0;  // scores become c tanh(score / c); 0: they do not
  float logits_softcap = 0;
  PositionBiasConfig position_bias;
  float output_scale = 1.0F;  // of what the last norm makes
  MoeConfig moe;

  // An encoder-decoder: the decoder's layers are the num_layers, and each of them also attends to
  // what these many layers of the same shape make of the prompt. 0: there is no encoder.
  int32_t num_encoder_layers = 0;
  int32_t decoder_start_token_id = 0;  // what the decoder's text begins with

  // Layers that see a window of `window` tokens, the query's own included, and rotate by
  // `local_rope`.
  int64_t window = 0;
  RopeConfig local_rope;
  std::vector<bool> local_layers;  // [num_layers], or empty: none

  std::vector<int32_t> bos_token_ids;  // at most one
  std::vector<int32_t> eos_token_ids;  // generation_config.json's where it has them
  GenerationDefaults generation;       // generation_config.json's
  DType file_dtype = DType::kBf16;

  bool has_encoder() const { return num_encoder_layers > 0; }

  // The decoder's, then the encoder's: as Weights and TensorsOfLayer number them.
  int32_t num_all_layers() const { return num_layers + num_encoder_layers; }

  bool IsLocal(int32_t layer) const {
    return !local_layers.empty() && local_layers[static_cast<size_t>(layer)];
  }

  float AttentionScale(int32_t layer) const;
};

// Layers that see equally far: they share rings, blocks and tiles.
struct LayerGroup {
  int64_t window = kNoWindow;
  const RopeConfig* rope = nullptr;  // of the config
  std::vector<int32_t> layers;       // ascending
};

// One or two; the layers that see everything first. Borrows `config`.
std::vector<LayerGroup> LayerGroups(const ModelConfig& config);

// Strict about what it uses: a value that would change the result and is not supported here (an
// unknown rope_type, an activation, ...) is an error naming the key. Both spellings of rope
// ("rope_parameters", and "rope_theta" with "rope_scaling") are read. Keys that may be missing
// default as transformers defaults them. `generation_config_json` may be empty: there is none.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_json,
                                             std::string_view generation_config_json);

// Reads DIR/config.json and, if it is there, DIR/generation_config.json.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir);

// The same, noting everything that is wrong instead of the first thing. The result means nothing if
// something was noted.
ModelConfig ReadModelConfig(const std::string& model_dir, Problems& problems);

// Angular frequencies of the head_dim / 2 pairs, radians per position, in float64; 0 for pairs that
// are not rotated. Pairs are (i, i + head_dim/2): where rotary_dim is less than head_dim the
// weights are brought into this order (RopeRowOrder). `context` is how long the text can become.
std::vector<double> RopeFrequencies(const RopeConfig& rope, int32_t head_dim, int64_t context = 0);

// Row i of a head is row RopeRowOrder()[i] of the file's. Empty: they are the same.
std::vector<int32_t> RopeRowOrder(const RopeConfig& rope, int32_t head_dim);

}  // namespace ringserve
