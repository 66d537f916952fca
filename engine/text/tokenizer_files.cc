#include <filesystem>
#include <string>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/tokenizer_json.h"

namespace ringserve {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{256} << 20;

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// What the classes of transformers add unless the file says otherwise.
SentencePieceOptions OptionsOfClass(const std::string& name) {
  const bool adds_bos =
      name.rfind("Llama", 0) == 0 || name.rfind("CodeLlama", 0) == 0 || name.rfind("Gemma", 0) == 0;
  return {.add_bos = adds_bos, .add_eos = name.rfind("T5", 0) == 0};
}

absl::StatusOr<SentencePieceOptions> ReadOptions(const std::string& path) {
  SentencePieceOptions options;
  if (!Exists(path)) {
    return options;
  }
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, path));
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(json, path));
  if (reader.Has("tokenizer_class")) {
    ASSIGN_OR_RETURN(const std::string name, reader.String("tokenizer_class"));
    options = OptionsOfClass(name);
  }
  if (reader.Has("add_bos_token")) {
    ASSIGN_OR_RETURN(options.add_bos, reader.Bool("add_bos_token"));
  }
  if (reader.Has("add_eos_token")) {
    ASSIGN_OR_RETURN(options.add_eos, reader.Bool("add_eos_token"));
  }
  return options;  // the file is for others to read whole
}

std::optional<TokenizerParts> LoadSentencePiece(const std::string& model_dir, Problems* problems) {
  const std::string path = model_dir + "/tokenizer.model";
  std::string bytes;
  SentencePieceOptions options;
  if (!problems->Take(ReadFile(path, kMaxFileBytes), bytes) ||
      !problems->Take(ReadOptions(model_dir + "/tokenizer_config.json"), options)) {
    return std::nullopt;
  }
  const auto json = TokenizerJsonOfSentencePiece(bytes, options);
  if (!json.ok()) {
    problems->Add(fmt::format("{}: {}", path, std::string(json.status().message())));
    return std::nullopt;
  }
  Problems found;
  std::optional<TokenizerParts> parts = ReadTokenizerJson(*json, &found);
  problems->Add(path + ", as tokenizer.json: ", found);
  return parts;
}

}  // namespace

std::optional<TokenizerParts> LoadTokenizer(const std::string& model_dir, Problems* problems) {
  const std::string path = model_dir + "/tokenizer.json";
  if (!Exists(path) && Exists(model_dir + "/tokenizer.model")) {
    return LoadSentencePiece(model_dir, problems);
  }
  std::string text;
  if (!problems->Take(ReadFile(path, kMaxFileBytes), text)) {
    return std::nullopt;
  }
  Problems found;
  std::optional<TokenizerParts> parts = ParseTokenizerJson(text, &found);
  problems->Add(path + ": ", found);
  return parts;
}

}  // namespace ringserve
