#include "engine/model/family_config.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "engine/model/config_keys.h"
#include "engine/model/rope_config.h"

namespace ringserve {
namespace {

void ReadWindowOfAll(ConfigKeys& keys, ModelConfig& config, std::optional<int64_t> missing) {
  const int64_t window = keys.WindowOr("sliding_window", missing);
  if (window > 0) {
    config.window = window;
    config.local_layers.assign(static_cast<size_t>(config.num_layers), true);
    config.local_rope = config.rope;
  }
}

// "layer_types", or else what `is_local` says of a layer.
template <typename IsLocal>
void ReadLayerTypes(ConfigKeys& keys, ModelConfig& config, const IsLocal& is_local) {
  std::vector<bool> local(static_cast<size_t>(config.num_layers));
  for (size_t layer = 0; layer < local.size(); ++layer) {
    local[layer] = is_local(static_cast<int32_t>(layer));
  }
  keys.LayerTypes(local);
  if (std::find(local.begin(), local.end(), true) == local.end()) {
    config.window = 0;
    return;
  }
  if (config.window == 0) {
    keys.Problem("sliding_window", "missing, and layer_types has sliding_attention");
    return;
  }
  config.local_layers = std::move(local);
  config.local_rope = config.rope;
}

void ReadLlama(ConfigKeys& keys, ModelConfig& config) {
  keys.Sizes(config, {.max_positions = 2048, .eps = 1e-6, .bos = {1}, .eos = {2}});
  config.qkv_bias = config.o_bias = keys.Bool("attention_bias", false);
  config.mlp_bias = keys.Bool("mlp_bias", false);
  keys.Silu("hidden_act");
  config.rope = keys.Rope(config, {});
}

void ReadMistral(ConfigKeys& keys, ModelConfig& config) {
  keys.Sizes(config, {.kv_heads = 8, .max_positions = 131072, .eps = 1e-6, .bos = {1}, .eos = {2}});
  keys.Silu("hidden_act");
  config.rope = keys.Rope(config, {});
  ReadWindowOfAll(keys, config, 4096);
}

// Qwen2 and Qwen3: a window for the layers from max_window_layers on, if at all.
void ReadQwenWindow(ConfigKeys& keys, ModelConfig& config) {
  config.window =
      keys.Bool("use_sliding_window", false) ? keys.WindowOr("sliding_window", 4096) : 0;
  keys.Ignore("sliding_window");
  const int64_t first = keys.IntOr("max_window_layers", {0, 1 << 20}, 28);
  ReadLayerTypes(keys, config, [&](int32_t layer) { return config.window > 0 && layer >= first; });
}

void ReadQwen2(ConfigKeys& keys, ModelConfig& config) {
  keys.Sizes(config, {.kv_heads = 32, .max_positions = 32768, .eps = 1e-6});
  config.qkv_bias = true;
  keys.Silu("hidden_act");
  config.rope = keys.Rope(config, {});
  ReadQwenWindow(keys, config);
}

void ReadQwen3(ConfigKeys& keys, ModelConfig& config) {
  keys.Sizes(config, {.kv_heads = 32, .head_dim = 128, .max_positions = 32768, .eps = 1e-6});
  config.qkv_bias = config.o_bias = keys.Bool("attention_bias", false);
  config.qk_norm = true;
  keys.Silu("hidden_act");
  config.rope = keys.Rope(config, {});
  ReadQwenWindow(keys, config);
}

void ReadQwen3Moe(ConfigKeys& keys, ModelConfig& config) {
  keys.Sizes(config, {.kv_heads = 4, .max_positions = 32768, .eps = 1e-6});
  config.tensors = TensorStyle::kQwen3Moe;
  config.qkv_bias = config.o_bias = keys.Bool("attention_bias", false);
  config.qk_norm = true;
  keys.Silu("hidden_act");
  config.rope = keys.Rope(config, {});
  const bool windowed = keys.Bool("use_sliding_window", false);
  if (windowed) {
    ReadWindowOfAll(keys, config, 4096);
  }
  keys.Ignore("sliding_window");
  const char* count = keys.Has("num_local_experts") ? "num_local_experts" : "num_experts";
  keys.Experts(config, {.count_key = count, .count = 128, .per_token = 8});
  config.moe.ffn_dim = static_cast<int32_t>(keys.IntOr("moe_intermediate_size", kFfnRange, 768));
  config.moe.normalize = keys.Bool("norm_topk_prob", false);
  const int64_t step = keys.IntOr("decoder_sparse_step", {1, 1024}, 1);
  std::vector<bool> dense(static_cast<size_t>(config.num_layers));
  for (size_t layer = 0; layer < dense.size(); ++layer) {
    dense[layer] = (static_cast<int64_t>(layer) + 1) % step != 0;
  }
  keys.DenseLayers("mlp_only_layers", dense);
  config.moe.dense_layers = std::move(dense);
}

void ReadMixtral(ConfigKeys& keys, ModelConfig& config) {
  keys.Sizes(config, {.kv_heads = 8, .max_positions = 131072, .eps = 1e-5, .bos = {1}, .eos = {2}});
  config.tensors = TensorStyle::kMixtral;
  keys.Silu("hidden_act");
  config.rope = keys.Rope(config, {.default_theta = 1e6});
  ReadWindowOfAll(keys, config, 0);
  keys.Experts(config, {.count_key = "num_local_experts", .count = 8, .per_token = 2});
  config.moe.ffn_dim = config.ffn_dim;
}

void ReadPhi3(ConfigKeys& keys, ModelConfig& config) {
  keys.Sizes(config, {.max_positions = 4096, .eps = 1e-5, .bos = {1}, .eos = {32000}});
  config.tensors = TensorStyle::kPhi3;
  keys.Silu("hidden_act");
  config.rope = keys.Rope(config,
                          {.original_max_positions = keys.IntOr(
                               "original_max_position_embeddings", kPositionsRange, 4096),
                           .partial = true,
                           .yarn_means_longrope = true});
  ReadWindowOfAll(keys, config, 0);
}

void ReadGptOss(ConfigKeys& keys, ModelConfig& config) {
  keys.Sizes(config, {.kv_heads = 8, .head_dim = 64, .max_positions = 131072, .eps = 1e-5});
  config.tensors = TensorStyle::kGptOss;
  config.qkv_bias = config.o_bias = keys.Bool("attention_bias", true);
  config.learned_sinks = true;
  config.mlp_bias = true;
  config.activation = Activation::kClampedSilu;
  keys.Exactly("swiglu_alpha", 1.702);
  keys.Exactly("swiglu_limit", 7.0);
  keys.Silu("hidden_act");
  config.rope = keys.Rope(config, {.default_theta = 150000.0});
  if (!keys.Has("rope_parameters") && !keys.Has("rope_scaling")) {
    config.rope.kind = RopeConfig::Kind::kYarn;
    config.rope.factor = 32.0;
    config.rope.original_max_position = 4096;
    config.rope.truncate = false;
    config.rope.attention_factor = 0.1 * std::log(32.0) + 1.0;
  }
  config.window = keys.WindowOr("sliding_window", 128);
  ReadLayerTypes(keys, config, [](int32_t layer) { return layer % 2 == 0; });
  keys.Experts(config, {.count_key = "num_local_experts", .count = 128, .per_token = 4});
  config.moe.ffn_dim = config.ffn_dim;
}

// What Gemma 2 and 3 share.
void ReadGemma(ConfigKeys& keys, ModelConfig& config) {
  keys.Refuse("use_bidirectional_attention", "false");
  config.norm_plus_one = true;
  config.post_norms = true;
  config.qkv_bias = config.o_bias = keys.Bool("attention_bias", false);
  config.activation = Activation::kGeluTanh;
  keys.Enum("hidden_activation", {"gelu_pytorch_tanh"});
  keys.Ignore("hidden_act");
  // transformers rounds the scale to the type of the table.
  const auto scale = static_cast<float>(std::sqrt(static_cast<double>(config.hidden_dim)));
  config.embedding_scale = config.file_dtype == DType::kBf16 ? ToFloat(ToBf16(scale)) : scale;
  config.attention_scale =
      static_cast<float>(1.0 / std::sqrt(keys.DoubleOr("query_pre_attn_scalar", {1e-6, 1e9}, 256)));
}

constexpr IntRange kPatternRange = {1, 1024};

void ReadGemma2(ConfigKeys& keys, ModelConfig& config) {
  keys.Sizes(config,
             {.kv_heads = 4,
              .head_dim = 256,
              .max_positions = 8192,
              .eps = 1e-6,
              .tied = true,
              .bos = {2},
              .eos = {1}});
  ReadGemma(keys, config);
  config.attention_softcap = keys.SoftcapOr("attn_logit_softcapping", 50.0);
  config.logits_softcap = keys.SoftcapOr("final_logit_softcapping", 30.0);
  config.rope = keys.Rope(config, {});
  config.window = keys.WindowOr("sliding_window", 4096);
  ReadLayerTypes(keys, config, [](int32_t layer) { return layer % 2 == 0; });
}

void ReadGemma3(ConfigKeys& keys, ModelConfig& config) {
  keys.Sizes(config,
             {.vocab_size = 262208,
              .hidden_dim = 2304,
              .ffn_dim = 9216,
              .layers = 26,
              .heads = 8,
              .kv_heads = 4,
              .head_dim = 256,
              .max_positions = 131072,
              .eps = 1e-6,
              .tied = true,
              .bos = {2},
              .eos = {1}});
  ReadGemma(keys, config);
  config.qk_norm = true;
  config.attention_softcap = keys.SoftcapOr("attn_logit_softcapping", 0);
  config.logits_softcap = keys.SoftcapOr("final_logit_softcapping", 0);
  config.window = keys.WindowOr("sliding_window", 4096);
  const int64_t pattern = keys.IntOr("sliding_window_pattern", kPatternRange, 6);
  ReadLayerTypes(keys, config, [&](int32_t layer) { return (layer + int64_t{1}) % pattern != 0; });
  keys.GemmaRope(config);
}

void ReadGpt2(ConfigKeys& keys, ModelConfig& config) {
  keys.Gpt2Sizes(config);
  config.tensors = TensorStyle::kGpt2;
  config.layer_norm = true;
  config.learned_positions = true;
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  config.gated = false;
  const std::string name =
      keys.Enum("activation_function", {"gelu_new", "gelu_pytorch_tanh", "gelu", "relu"});
  config.activation = name == "gelu"   ? Activation::kGelu
                      : name == "relu" ? Activation::kRelu
                                       : Activation::kGeluTanh;
  config.rope.kind = RopeConfig::Kind::kNone;
  config.scale_by_layer = keys.Bool("scale_attn_by_inverse_layer_idx", false);
  if (!keys.Bool("scale_attn_weights", true)) {
    config.attention_scale = 1.0F;
  }
  keys.Refuse("add_cross_attention", "false");
}

void ReadT5Family(ConfigKeys& keys, ModelConfig& config, const ConfigKeys::T5Defaults& defaults) {
  keys.T5Sizes(config, defaults);
  keys.T5FeedForward(config, defaults.feed_forward);
  config.tensors = TensorStyle::kT5;
  config.rope.kind = RopeConfig::Kind::kNone;
  config.attention_scale = 1.0F;
  config.decoder_start_token_id = -1;  // not told yet
  // transformers 5 says so itself; earlier ones scale where the head is the table.
  if (keys.Bool("scale_decoder_outputs", config.tied_embeddings)) {
    config.output_scale =
        static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.hidden_dim)));
  }
  if (!keys.Bool("is_encoder_decoder", true)) {
    keys.Problem("is_encoder_decoder", "false is not supported");
  }
}

void ReadT5(ConfigKeys& keys, ModelConfig& config) {
  ReadT5Family(
      keys,
      config,
      {.vocab_size = 32128, .ffn_dim = 2048, .layers = 6, .heads = 8, .feed_forward = "relu"});
}

void ReadMt5(ConfigKeys& keys, ModelConfig& config) {
  ReadT5Family(keys,
               config,
               {.vocab_size = 250112,
                .ffn_dim = 1024,
                .layers = 8,
                .heads = 6,
                .feed_forward = "gated-gelu"});
}

// One architecture: its name in "architectures", its "model_type", and who reads its keys.
struct Family {
  std::string_view architecture;
  std::string_view model_type;
  void (*read)(ConfigKeys& keys, ModelConfig& config);
};

constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", ReadLlama},
    {"MistralForCausalLM", "mistral", ReadMistral},
    {"Qwen2ForCausalLM", "qwen2", ReadQwen2},
    {"Qwen3ForCausalLM", "qwen3", ReadQwen3},
    {"Qwen3MoeForCausalLM", "qwen3_moe", ReadQwen3Moe},
    {"MixtralForCausalLM", "mixtral", ReadMixtral},
    {"Gemma2ForCausalLM", "gemma2", ReadGemma2},
    {"Gemma3ForCausalLM", "gemma3_text", ReadGemma3},
    {"Phi3ForCausalLM", "phi3", ReadPhi3},
    {"GPT2LMHeadModel", "gpt2", ReadGpt2},
    {"GptOssForCausalLM", "gpt_oss", ReadGptOss},
    {"T5ForConditionalGeneration", "t5", ReadT5},
    {"MT5ForConditionalGeneration", "mt5", ReadMt5},
};

}  // namespace

bool ReadFamily(JsonReader& reader, ModelConfig& config, Problems& problems) {
  const nlohmann::json* list = nullptr;
  if (!problems.Take(reader.Any("architectures"), list)) {
    return false;
  }
  if (!list->is_array() || list->size() != 1 || !list->front().is_string()) {
    problems.Add(reader.Error("architectures", "not a list of one string"));
    return false;
  }
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) {
    names.push_back(family.architecture);
    if (list->front() != family.architecture) {
      continue;
    }
    std::string type(family.model_type);
    if (reader.Has("model_type")) {
      problems.Take(reader.Enum("model_type", {family.model_type}), type);
    }
    config.architecture = family.architecture;
    ConfigKeys keys(reader, problems);
    keys.RefuseForeign();
    family.read(keys, config);
    keys.RefuseUnread();
    return true;
  }
  problems.Add(reader.Error(
      "architectures",
      fmt::format("{} is not supported, only: {}", list->front().dump(), fmt::join(names, ", "))));
  return false;
}

}  // namespace ringserve
