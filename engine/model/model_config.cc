#include "engine/model/model_config.h"

#include <cmath>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/model/family_config.h"
#include "engine/model/generation_config.h"
#include "engine/model/safetensors.h"

namespace ringserve {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

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
  if (config.has_encoder()) {
    std::vector<int32_t> start;
    ReadTokenIds(reader, "decoder_start_token_id", config.vocab_size, 1, start, problems);
    config.decoder_start_token_id = start.empty() ? config.decoder_start_token_id : start.front();
  }
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
  ReadDType(*reader, config, problems);
  if (!ReadFamily(*reader, config, problems)) {
    return;
  }
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
  config.generation = ReadGenerationConfig(*reader, config.vocab_size, problems);
  config.decoder_start_token_id = told.decoder_start_token_id;
}

// After both files were read: either may tell it.
void CheckStartToken(const ModelConfig& config, std::string_view file, Problems& problems) {
  if (config.has_encoder() && config.decoder_start_token_id < 0) {
    problems.Add(fmt::format("{}: decoder_start_token_id: missing", file));
  }
}

// An encoder-decoder's file may hold a head of its own whatever the config says of it.
void UntieIfHeadIsThere(const std::string& model_dir, ModelConfig& config) {
  if (!config.has_encoder() || !config.tied_embeddings) {
    return;
  }
  const auto checkpoint = Checkpoint::Open(model_dir);
  config.tied_embeddings = !checkpoint.ok() || (*checkpoint)->Find("lm_head.weight") == nullptr;
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

float ModelConfig::AttentionScale(int32_t layer) const {
  const float scale =
      attention_scale > 0 ? attention_scale : 1.0F / std::sqrt(static_cast<float>(head_dim));
  return scale_by_layer ? scale / static_cast<float>(layer + 1) : scale;
}

std::vector<LayerGroup> LayerGroups(const ModelConfig& config) {
  LayerGroup global = {.window = kNoWindow, .rope = &config.rope, .layers = {}};
  LayerGroup local = {.window = config.window, .rope = &config.local_rope, .layers = {}};
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    (config.IsLocal(layer) ? local : global).layers.push_back(layer);
  }
  std::vector<LayerGroup> groups;
  for (LayerGroup* group : {&global, &local}) {
    if (!group->layers.empty()) {
      groups.push_back(std::move(*group));
    }
  }
  return groups;
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_json,
                                             std::string_view generation_config_json) {
  ModelConfig config;
  Problems problems;
  Problems inside;
  ReadConfigText(config_json, config, inside);
  problems.Add("config.json: ", inside);
  config.generation = GreedyDefaults();
  if (!generation_config_json.empty()) {
    Problems generation;
    ReadGenerationConfigText(generation_config_json, config, generation);
    problems.Add("generation_config.json: ", generation);
  }
  CheckStartToken(config, "config.json", problems);
  RETURN_IF_ERROR(problems.ToStatus());
  return config;
}

ModelConfig ReadModelConfig(const std::string& model_dir, Problems& problems) {
  ModelConfig config;
  const std::filesystem::path dir(model_dir);
  ReadFileText((dir / "config.json").string(), config, problems, ReadConfigText);
  config.generation = GreedyDefaults();
  const std::string generation = (dir / "generation_config.json").string();
  std::error_code error;
  if (std::filesystem::exists(generation, error)) {
    ReadFileText(generation, config, problems, ReadGenerationConfigText);
  }
  CheckStartToken(config, (dir / "config.json").string(), problems);
  UntieIfHeadIsThere(model_dir, config);
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  Problems problems;
  ModelConfig config = ReadModelConfig(model_dir, problems);
  RETURN_IF_ERROR(problems.ToStatus());
  return config;
}

}  // namespace ringserve
