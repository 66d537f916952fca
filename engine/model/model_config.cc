#include "engine/model/model_config.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/model/rope_config.h"

namespace ringserve {
namespace {

// No product of these limits that a plan or a kernel forms leaves 63 bits.
constexpr IntRange kVocabRange = {1, 1 << 24};
constexpr IntRange kHiddenRange = {1, 1 << 16};
constexpr IntRange kFfnRange = {1, 1 << 20};
constexpr IntRange kLayersRange = {1, 1024};
constexpr IntRange kHeadsRange = {1, 1024};
constexpr IntRange kHeadDimRange = {2, 512};
constexpr IntRange kPositionsRange = {1, 1 << 30};
constexpr DoubleRange kEpsRange = {1e-12, 0.1};
constexpr int64_t kMaxConfigBytes = 1 << 20;

// What transformers' LlamaConfig assumes where the key is absent.
constexpr int32_t kLlamaBos = 1;
constexpr int32_t kLlamaEos = 2;

// Keys that say that the model is not what its architecture usually is, with the one value that
// says nothing. Any other value would be silently wrong results.
struct Unsupported {
  const char* key;
  const char* neutral;  // JSON; null and absent are neutral too
};

constexpr Unsupported kUnsupported[] = {
    {"attention_bias", "false"},
    {"mlp_bias", "false"},
    {"quantization_config", "null"},
    {"compression_config", "null"},
    {"sliding_window", "null"},
    {"use_sliding_window", "false"},
    {"attn_logit_softcapping", "null"},
    {"final_logit_softcapping", "null"},
    {"attention_multiplier", "null"},
    {"embedding_multiplier", "null"},
    {"residual_multiplier", "null"},
    {"logits_scaling", "null"},
    {"logit_scale", "null"},
    {"query_pre_attn_scalar", "null"},
    {"num_local_experts", "null"},
    {"num_experts", "null"},
    {"use_qk_norm", "false"},
    {"partial_rotary_factor", "1.0"},
    {"is_encoder_decoder", "false"},
    {"add_cross_attention", "false"},
    {"auto_map", "null"},  // code in the model's folder
};

void RefuseUnsupported(JsonReader& reader, Problems& problems) {
  for (const Unsupported& feature : kUnsupported) {
    if (!reader.Has(feature.key)) {
      continue;
    }
    const nlohmann::json& value = **reader.Any(feature.key);
    if (value != nlohmann::json::parse(feature.neutral)) {
      problems.Add(reader.Error(feature.key, fmt::format("{} is not supported", value.dump())));
    }
  }
  if (!reader.Has("layer_types")) {
    return;
  }
  const nlohmann::json& types = **reader.Any("layer_types");
  const bool all_full =
      types.is_array() &&
      std::all_of(types.begin(), types.end(), [](const auto& t) { return t == "full_attention"; });
  if (!all_full) {
    problems.Add(reader.Error("layer_types", "only full_attention is supported"));
  }
}

void ReadHeads(JsonReader& reader, ModelConfig& config, Problems& problems) {
  if (!problems.Take(reader.Int32("num_attention_heads", kHeadsRange), config.num_heads)) {
    return;
  }
  config.num_kv_heads = config.num_heads;
  if (reader.Has("num_key_value_heads") &&
      problems.Take(reader.Int32("num_key_value_heads", {1, config.num_heads}),
                    config.num_kv_heads) &&
      config.num_heads % config.num_kv_heads != 0) {
    problems.Add(reader.Error(
        "num_key_value_heads",
        fmt::format(
            "{} does not divide num_attention_heads {}", config.num_kv_heads, config.num_heads)));
  }
  if (reader.Has("head_dim")) {
    problems.Take(reader.Int32("head_dim", kHeadDimRange), config.head_dim);
  } else if (config.hidden_dim > 0 && config.hidden_dim % config.num_heads != 0) {
    problems.Add(
        reader.Error("num_attention_heads",
                     fmt::format("{} does not divide hidden_size {} and head_dim is missing",
                                 config.num_heads,
                                 config.hidden_dim)));
    return;
  } else if (config.hidden_dim > 0) {
    config.head_dim = config.hidden_dim / config.num_heads;
    if (config.head_dim < kHeadDimRange.min || config.head_dim > kHeadDimRange.max) {
      problems.Add(
          reader.Error("head_dim",
                       fmt::format("hidden_size / num_attention_heads is {}, not in [{}, {}]",
                                   config.head_dim,
                                   kHeadDimRange.min,
                                   kHeadDimRange.max)));
    }
  }
  if (config.head_dim % 2 != 0) {
    problems.Add(reader.Error("head_dim", fmt::format("{} is odd", config.head_dim)));
  }
}

void ReadLlama(JsonReader& reader, ModelConfig& config, Problems& problems) {
  RefuseUnsupported(reader, problems);
  problems.Take(reader.Int32("vocab_size", kVocabRange), config.vocab_size);
  problems.Take(reader.Int32("hidden_size", kHiddenRange), config.hidden_dim);
  problems.Take(reader.Int32("intermediate_size", kFfnRange), config.ffn_dim);
  problems.Take(reader.Int32("num_hidden_layers", kLayersRange), config.num_layers);
  problems.Take(reader.Int64("max_position_embeddings", kPositionsRange), config.max_positions);
  ReadHeads(reader, config, problems);
  double eps = 0;
  if (problems.Take(reader.Double("rms_norm_eps", kEpsRange), eps)) {
    config.rms_norm_eps = static_cast<float>(eps);
  }
  if (reader.Has("tie_word_embeddings")) {
    problems.Take(reader.Bool("tie_word_embeddings"), config.tied_embeddings);
  }
  std::string activation;
  if (reader.Has("hidden_act")) {
    problems.Take(reader.Enum("hidden_act", {"silu"}), activation);
  }
  config.rope = ReadRopeConfig(reader, problems);
  config.bos_token_ids = {kLlamaBos};
  config.eos_token_ids = {kLlamaEos};
}

// One architecture: its name in "architectures", its "model_type", and who reads its keys.
struct Family {
  std::string_view architecture;
  std::string_view model_type;
  void (*read)(JsonReader& reader, ModelConfig& config, Problems& problems);
};

constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", ReadLlama},
};

const Family* ReadFamily(JsonReader& reader, Problems& problems) {
  const nlohmann::json* list = nullptr;
  if (!problems.Take(reader.Any("architectures"), list)) {
    return nullptr;
  }
  if (!list->is_array() || list->size() != 1 || !list->front().is_string()) {
    problems.Add(reader.Error("architectures", "not a list of one string"));
    return nullptr;
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
    return &family;
  }
  problems.Add(reader.Error(
      "architectures",
      fmt::format("{} is not supported, only: {}", list->front().dump(), fmt::join(names, ", "))));
  return nullptr;
}

// transformers 5 writes "dtype", earlier ones "torch_dtype". Neither: float32, which holds every
// dtype that a file may have.
void ReadDType(JsonReader& reader, ModelConfig& config, Problems& problems) {
  config.file_dtype = DType::kF32;
  for (const char* key : {"torch_dtype", "dtype"}) {
    std::string name;
    if (!reader.Has(key) ||
        !problems.Take(reader.Enum(key, {"bfloat16", "float16", "float32"}), name)) {
      continue;
    }
    config.file_dtype = name == "bfloat16"  ? DType::kBf16
                        : name == "float16" ? DType::kF16
                                            : DType::kF32;
  }
}

// An id, a list of ids, or null (none). An absent key leaves `ids` as they are.
void ReadTokenIds(JsonReader& reader,
                  const char* key,
                  int32_t vocab_size,
                  size_t max_ids,
                  std::vector<int32_t>& ids,
                  Problems& problems) {
  const auto found = reader.Any(key);
  if (!found.ok()) {
    return;
  }
  const nlohmann::json& value = **found;
  const nlohmann::json list = value.is_null()    ? nlohmann::json::array()
                              : value.is_array() ? value
                                                 : nlohmann::json::array({value});
  if (list.size() > max_ids) {
    problems.Add(reader.Error(key, fmt::format("{} ids are more than {}", list.size(), max_ids)));
    return;
  }
  ids.clear();
  for (const nlohmann::json& id : list) {
    const bool in_range =
        id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(vocab_size);
    if (!in_range) {
      problems.Add(reader.Error(
          key, fmt::format("{} is not a token id in [0, {}]", id.dump(), vocab_size - 1)));
      return;
    }
    ids.push_back(id.get<int32_t>());
  }
}

void ReadSpecialTokens(JsonReader& reader, ModelConfig& config, Problems& problems) {
  if (config.vocab_size == 0) {
    return;  // already a problem, and no range to hold the ids to
  }
  ReadTokenIds(reader, "bos_token_id", config.vocab_size, 1, config.bos_token_ids, problems);
  ReadTokenIds(reader, "eos_token_id", config.vocab_size, 64, config.eos_token_ids, problems);
}

// Defaults that the vocabulary does not hold name no token.
void DropDefaultsOutside(ModelConfig& config) {
  const auto outside = [&](int32_t id) { return id >= config.vocab_size; };
  std::erase_if(config.bos_token_ids, outside);
  std::erase_if(config.eos_token_ids, outside);
}

void ReadConfigText(std::string_view text, ModelConfig& config, Problems& problems) {
  nlohmann::json json;
  if (!problems.Take(ParseJson(text, "not strict JSON"), json)) {
    return;
  }
  auto reader = JsonReader::Create(json, "");
  if (!reader.ok()) {
    problems.Add(reader.status());
    return;
  }
  const Family* family = ReadFamily(*reader, problems);
  if (family == nullptr) {
    return;
  }
  config.architecture = family->architecture;
  ReadDType(*reader, config, problems);
  family->read(*reader, config, problems);
  DropDefaultsOutside(config);
  ReadSpecialTokens(*reader, config, problems);
}

void ReadGenerationConfigText(std::string_view text, ModelConfig& config, Problems& problems) {
  nlohmann::json json;
  if (!problems.Take(ParseJson(text, "not strict JSON"), json)) {
    return;
  }
  auto reader = JsonReader::Create(json, "");
  if (!reader.ok()) {
    problems.Add(reader.status());
    return;
  }
  ModelConfig told = config;
  ReadSpecialTokens(*reader, told, problems);
  if (reader->Has("bos_token_id")) {
    config.bos_token_ids = told.bos_token_ids;
  }
  if (reader->Has("eos_token_id")) {
    config.eos_token_ids = told.eos_token_ids;
  }
}

// A problem of a file, behind the file's name.
void ReadFileText(const std::string& path,
                  ModelConfig& config,
                  Problems& problems,
                  void (*read)(std::string_view, ModelConfig&, Problems&)) {
  std::string text;
  if (!problems.Take(ReadFile(path, kMaxConfigBytes), text)) {
    return;
  }
  Problems inside;
  read(text, config, inside);
  problems.Add(path + ": ", inside);
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_json,
                                             std::string_view generation_config_json) {
  ModelConfig config;
  Problems problems;
  Problems inside;
  ReadConfigText(config_json, config, inside);
  problems.Add("config.json: ", inside);
  if (!generation_config_json.empty()) {
    Problems generation;
    ReadGenerationConfigText(generation_config_json, config, generation);
    problems.Add("generation_config.json: ", generation);
  }
  RETURN_IF_ERROR(problems.ToStatus());
  return config;
}

ModelConfig ReadModelConfig(const std::string& model_dir, Problems& problems) {
  ModelConfig config;
  const std::filesystem::path dir(model_dir);
  ReadFileText((dir / "config.json").string(), config, problems, ReadConfigText);
  const std::string generation = (dir / "generation_config.json").string();
  std::error_code error;
  if (std::filesystem::exists(generation, error)) {
    ReadFileText(generation, config, problems, ReadGenerationConfigText);
  }
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  Problems problems;
  ModelConfig config = ReadModelConfig(model_dir, problems);
  RETURN_IF_ERROR(problems.ToStatus());
  return config;
}

}  // namespace ringserve
