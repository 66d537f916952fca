#include "engine/model/config_keys.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace ringserve {
namespace {

constexpr DoubleRange kEpsRange = {1e-12, 0.1};

// Keys that say that a model is not what its architecture usually is, with the one value that says
// nothing. Any other value would be silently wrong results.
struct Foreign {
  const char* key;
  const char* neutral;  // JSON; null and absent are neutral too
};

constexpr Foreign kForeign[] = {
    {"quantization_config", "null"},
    {"compression_config", "null"},
    {"attention_multiplier", "null"},
    {"embedding_multiplier", "null"},
    {"residual_multiplier", "null"},
    {"logits_scaling", "null"},
    {"logit_scale", "null"},
    {"use_qk_norm", "false"},
    {"auto_map", "null"},  // code in the model's folder
};

// Keys that some families read; in the files of others they must say nothing.
constexpr Foreign kOfSomeFamilies[] = {
    {"is_encoder_decoder", "false"},
    {"attention_bias", "false"},
    {"mlp_bias", "false"},
    {"sliding_window", "null"},
    {"use_sliding_window", "false"},
    {"attn_logit_softcapping", "null"},
    {"final_logit_softcapping", "null"},
    {"query_pre_attn_scalar", "null"},
    {"num_local_experts", "null"},
    {"num_experts", "null"},
    {"partial_rotary_factor", "1.0"},
    {"add_cross_attention", "false"},
};

}  // namespace

void ConfigKeys::RefuseForeign() {
  for (const Foreign& feature : kForeign) {
    Refuse(feature.key, feature.neutral);
  }
}

void ConfigKeys::RefuseUnread() {
  const std::vector<std::string> unread = reader_.UnknownKeys();
  for (const Foreign& feature : kOfSomeFamilies) {
    if (std::find(unread.begin(), unread.end(), feature.key) != unread.end()) {
      Refuse(feature.key, feature.neutral);
    }
  }
  if (std::find(unread.begin(), unread.end(), "layer_types") == unread.end()) {
    return;
  }
  const nlohmann::json* types = nullptr;
  const bool all_full = problems_.Take(reader_.Any("layer_types"), types) && types->is_array() &&
                        std::all_of(types->begin(), types->end(), [](const auto& t) {
                          return t == "full_attention";
                        });
  if (!types->is_null() && !all_full) {
    Problem("layer_types", "only full_attention is supported");
  }
}

void ConfigKeys::Refuse(const char* key, const char* neutral) {
  if (!reader_.Has(key)) {
    return;
  }
  const nlohmann::json& value = **reader_.Any(key);
  if (value != nlohmann::json::parse(neutral)) {
    Problem(key, fmt::format("{} is not supported", value.dump()));
  }
}

void ConfigKeys::Exactly(const char* key, double value) {
  double found = value;
  if (reader_.Has(key) && problems_.Take(reader_.Double(key), found) && found != value) {
    Problem(key, fmt::format("{} is not supported, only {}", found, value));
  }
}

void ConfigKeys::Size(const char* key, IntRange range, int32_t missing, int32_t& value) {
  value = missing;
  if (missing == 0 || reader_.Has(key)) {
    problems_.Take(reader_.Int32(key, range), value);
  }
}

void ConfigKeys::Heads(ModelConfig& config, const Defaults& defaults) {
  Size("num_attention_heads", kHeadsRange, defaults.heads, config.num_heads);
  if (config.num_heads == 0) {
    return;
  }
  // null is as many as there are heads; a key that is not there is the family's default.
  config.num_kv_heads = config.num_heads;
  if (reader_.Has("num_key_value_heads")) {
    problems_.Take(reader_.Int32("num_key_value_heads", {1, config.num_heads}),
                   config.num_kv_heads);
  } else if (!HasKey("num_key_value_heads") && defaults.kv_heads > 0) {
    config.num_kv_heads = defaults.kv_heads;
  }
  if (config.num_heads % config.num_kv_heads != 0) {
    Problem(
        "num_key_value_heads",
        fmt::format(
            "{} does not divide num_attention_heads {}", config.num_kv_heads, config.num_heads));
  }
  if (reader_.Has("head_dim")) {
    problems_.Take(reader_.Int32("head_dim", kHeadDimRange), config.head_dim);
  } else if (defaults.head_dim > 0 && !HasKey("head_dim")) {
    config.head_dim = defaults.head_dim;
  } else if (config.hidden_dim > 0 && config.hidden_dim % config.num_heads != 0) {
    Problem("num_attention_heads",
            fmt::format("{} does not divide hidden_size {} and head_dim is missing",
                        config.num_heads,
                        config.hidden_dim));
    return;
  } else if (config.hidden_dim > 0) {
    config.head_dim = config.hidden_dim / config.num_heads;
    if (config.head_dim < kHeadDimRange.min || config.head_dim > kHeadDimRange.max) {
      Problem("head_dim",
              fmt::format("hidden_size / num_attention_heads is {}, not in [{}, {}]",
                          config.head_dim,
                          kHeadDimRange.min,
                          kHeadDimRange.max));
    }
  }
  if (config.head_dim % 2 != 0) {
    Problem("head_dim", fmt::format("{} is odd", config.head_dim));
  }
}

void ConfigKeys::Sizes(ModelConfig& config, const Defaults& defaults) {
  Size("vocab_size", kVocabRange, defaults.vocab_size, config.vocab_size);
  Size("hidden_size", kHiddenRange, defaults.hidden_dim, config.hidden_dim);
  Size("intermediate_size", kFfnRange, defaults.ffn_dim, config.ffn_dim);
  Size("num_hidden_layers", kLayersRange, defaults.layers, config.num_layers);
  config.max_positions = IntOr("max_position_embeddings", kPositionsRange, defaults.max_positions);
  Heads(config, defaults);
  config.rms_norm_eps = static_cast<float>(DoubleOr("rms_norm_eps", kEpsRange, defaults.eps));
  config.tied_embeddings = Bool("tie_word_embeddings", defaults.tied);
  config.bos_token_ids = defaults.bos;
  config.eos_token_ids = defaults.eos;
}

void ConfigKeys::Gpt2Sizes(ModelConfig& config) {
  constexpr int32_t kEndOfText = 50256;
  Size("vocab_size", kVocabRange, 50257, config.vocab_size);
  Size("n_embd", kHiddenRange, 768, config.hidden_dim);
  Size("n_layer", kLayersRange, 12, config.num_layers);
  Size("n_head", kHeadsRange, 12, config.num_heads);
  config.max_positions = IntOr("n_positions", kPositionsRange, 1024);
  config.ffn_dim =
      static_cast<int32_t>(IntOr("n_inner", kFfnRange, int64_t{4} * config.hidden_dim));
  config.num_kv_heads = config.num_heads;
  const int32_t head_dim = config.hidden_dim / config.num_heads;
  if (config.hidden_dim % config.num_heads != 0 || head_dim % 2 != 0 ||
      head_dim < kHeadDimRange.min || head_dim > kHeadDimRange.max) {
    Problem("n_head",
            fmt::format("{} heads of n_embd {} have no even size in [2, 512]",
                        config.num_heads,
                        config.hidden_dim));
  }
  config.head_dim = config.hidden_dim / config.num_heads;
  config.rms_norm_eps = static_cast<float>(DoubleOr("layer_norm_epsilon", kEpsRange, 1e-5));
  config.tied_embeddings = Bool("tie_word_embeddings", true);
  config.bos_token_ids = config.eos_token_ids = {kEndOfText};
}

void ConfigKeys::T5Sizes(ModelConfig& config, const T5Defaults& defaults) {
  Size("vocab_size", kVocabRange, defaults.vocab_size, config.vocab_size);
  Size("d_model", kHiddenRange, 512, config.hidden_dim);
  Size("d_ff", kFfnRange, defaults.ffn_dim, config.ffn_dim);
  Size("num_layers", kLayersRange, defaults.layers, config.num_encoder_layers);
  Size("num_decoder_layers", kLayersRange, config.num_encoder_layers, config.num_layers);
  Size("num_heads", kHeadsRange, defaults.heads, config.num_heads);
  Size("d_kv", kHeadDimRange, 64, config.head_dim);
  if (config.head_dim % 2 != 0) {
    Problem("d_kv", fmt::format("{} is odd", config.head_dim));
  }
  config.num_kv_heads = config.num_heads;
  // Distances have no end.
  config.max_positions = kPositionsRange.max;
  config.rms_norm_eps = static_cast<float>(DoubleOr("layer_norm_epsilon", kEpsRange, 1e-6));
  PositionBiasConfig& bias = config.position_bias;
  bias.num_buckets =
      static_cast<int32_t>(IntOr("relative_attention_num_buckets", {4, 1 << 16}, 32));
  bias.max_distance =
      static_cast<int32_t>(IntOr("relative_attention_max_distance", {2, 1 << 20}, 128));
  if (bias.num_buckets % 2 != 0) {
    Problem("relative_attention_num_buckets", fmt::format("{} is odd", bias.num_buckets));
  }
  // Half of the buckets, or a quarter of them beside those of the other direction, are for one
  // distance each.
  if (bias.max_distance <= bias.num_buckets / 2) {
    Problem("relative_attention_max_distance",
            fmt::format(
                "{} is not more than half of the {} buckets", bias.max_distance, bias.num_buckets));
  }
  config.tied_embeddings = Bool("tie_word_embeddings", true);
  config.eos_token_ids = {1};
}

void ConfigKeys::T5FeedForward(ModelConfig& config, const char* missing) {
  std::vector<std::string_view> names = {missing};
  for (const std::string_view name : {"relu",
                                      "gelu",
                                      "gelu_new",
                                      "silu",
                                      "swish",
                                      "gated-relu",
                                      "gated-gelu",
                                      "gated-gelu_new",
                                      "gated-silu",
                                      "gated-swish"}) {
    if (name != names.front()) {
      names.push_back(name);
    }
  }
  std::string name = Enum("feed_forward_proj", names);
  config.gated = name.starts_with("gated-");
  if (name == "gated-gelu") {
    name = "gated-gelu_new";  // as transformers has it
  }
  const std::string activation = name.substr(config.gated ? 6 : 0);
  config.activation = activation == "relu"       ? Activation::kRelu
                      : activation == "gelu"     ? Activation::kGelu
                      : activation == "gelu_new" ? Activation::kGeluTanh
                                                 : Activation::kSilu;
  Enum("dense_act_fn", {activation});
  if (Bool("is_gated_act", config.gated) != config.gated) {
    Problem("is_gated_act", fmt::format("not what feed_forward_proj \"{}\" says", name));
  }
}

void ConfigKeys::Experts(ModelConfig& config, const ExpertDefaults& defaults) {
  config.moe.num_experts =
      static_cast<int32_t>(IntOr(defaults.count_key, kExpertsRange, defaults.count));
  config.moe.experts_per_token =
      static_cast<int32_t>(IntOr("num_experts_per_tok", kExpertsRange, defaults.per_token));
  if (config.moe.experts_per_token > config.moe.num_experts) {
    Problem("num_experts_per_tok",
            fmt::format("{} is more than the {} experts",
                        config.moe.experts_per_token,
                        config.moe.num_experts));
  }
}

bool ConfigKeys::Bool(const char* key, bool missing) {
  bool value = missing;
  reader_.Ignore(key);
  if (reader_.Has(key)) {
    problems_.Take(reader_.Bool(key), value);
  }
  return value;
}

int64_t ConfigKeys::IntOr(const char* key, IntRange range, int64_t missing) {
  int64_t value = missing;
  reader_.Ignore(key);
  if (reader_.Has(key)) {
    problems_.Take(reader_.Int64(key, range), value);
  }
  return value;
}

double ConfigKeys::DoubleOr(const char* key, DoubleRange range, double missing) {
  double value = missing;
  reader_.Ignore(key);
  if (reader_.Has(key)) {
    problems_.Take(reader_.Double(key, range), value);
  }
  return value;
}

std::string ConfigKeys::Enum(const char* key, const std::vector<std::string_view>& values) {
  std::string value(values.front());
  if (reader_.Has(key)) {
    problems_.Take(reader_.Enum(key, values), value);
  }
  return value;
}

bool ConfigKeys::HasKey(const char* key) const {
  const std::vector<std::string> unread = reader_.UnknownKeys();
  return std::find(unread.begin(), unread.end(), key) != unread.end();
}

int64_t ConfigKeys::WindowOr(const char* key, std::optional<int64_t> missing) {
  if (HasKey(key) && !reader_.Has(key)) {
    reader_.Ignore(key);
    return 0;
  }
  return IntOr(key, kPositionsRange, missing.value_or(0));
}

float ConfigKeys::SoftcapOr(const char* key, double missing) {
  if (HasKey(key) && !reader_.Has(key)) {
    reader_.Ignore(key);
    return 0;
  }
  return static_cast<float>(DoubleOr(key, {1e-3, 1e6}, missing));
}

RopeConfig ConfigKeys::Rope(const ModelConfig& config, RopeContext context) {
  context.head_dim = config.head_dim;
  context.max_positions = config.max_positions;
  return ReadRopeConfig(reader_, context, problems_);
}

void ConfigKeys::GemmaRope(ModelConfig& config) {
  constexpr double kLocalTheta = 10000.0;
  constexpr double kGlobalTheta = 1e6;
  const RopeContext context = {.head_dim = config.head_dim,
                               .max_positions = config.max_positions,
                               .default_theta = kGlobalTheta};
  const nlohmann::json* parameters =
      reader_.Has("rope_parameters") ? *reader_.Any("rope_parameters") : nullptr;
  if (parameters == nullptr || !parameters->is_object() ||
      (!parameters->contains("full_attention") && !parameters->contains("sliding_attention"))) {
    config.rope = ReadRopeConfig(reader_, context, problems_);
    config.local_rope = {};
    config.local_rope.theta = DoubleOr("rope_local_base_freq", {1.0, 1e15}, kLocalTheta);
    return;
  }
  auto types = reader_.Object("rope_parameters");
  config.rope = {};
  config.rope.theta = kGlobalTheta;
  config.local_rope = {};
  config.local_rope.theta = kLocalTheta;
  for (const auto& [key, rope] : {std::pair{"full_attention", &config.rope},
                                  std::pair{"sliding_attention", &config.local_rope}}) {
    if (!types->Has(key)) {
      continue;
    }
    auto inner = types->Object(key);
    if (!inner.ok()) {
      problems_.Add(inner.status());
      continue;
    }
    ReadRopeParameters(*inner, context, *rope, problems_);
  }
  problems_.Add(types->Finish());
}

void ConfigKeys::LayerTypes(std::vector<bool>& local) {
  const bool has_types = reader_.Has("layer_types");
  reader_.Ignore("layer_types");
  if (!has_types || local.empty()) {
    return;
  }
  const nlohmann::json& types = **reader_.Any("layer_types");
  if (!types.is_array() || types.size() != local.size()) {
    Problem("layer_types", fmt::format("not a list of {} types, one for each layer", local.size()));
    return;
  }
  for (size_t layer = 0; layer < local.size(); ++layer) {
    local[layer] = types[layer] == "sliding_attention";
    if (!local[layer] && types[layer] != "full_attention") {
      Problem("layer_types",
              fmt::format("{} is not supported, only: full_attention, sliding_attention",
                          types[layer].dump()));
      return;
    }
  }
}

void ConfigKeys::DenseLayers(const char* key, std::vector<bool>& dense) {
  if (!reader_.Has(key)) {
    reader_.Ignore(key);
    return;
  }
  const nlohmann::json& list = **reader_.Any(key);
  for (const nlohmann::json& layer : list.is_array() ? list : nlohmann::json::array({list})) {
    if (!layer.is_number_unsigned()) {
      Problem(key, fmt::format("{} is not a layer", layer.dump()));
    } else if (layer.get<uint64_t>() < dense.size()) {
      dense[layer.get<size_t>()] = true;
    }
  }
}

}  // namespace ringserve
