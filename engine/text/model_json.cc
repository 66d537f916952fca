#include "engine/text/model_json.h"

#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/text/unigram.h"
#include "engine/text/word_piece.h"

namespace ringserve {
namespace {

constexpr double kMaxScore = 1e30;

absl::Status ReadUnigramVocab(const nlohmann::json& value,
                              const std::string& path,
                              UnigramVocab* model,
                              VocabJson* vocab) {
  if (!value.is_array() || value.empty() || value.size() > size_t{kMaxTokenId}) {
    return absl::InvalidArgumentError(
        fmt::format("{}: not an array of 1 to {} tokens", path, kMaxTokenId));
  }
  model->tokens.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) {
    const nlohmann::json& entry = value[i];
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      return absl::InvalidArgumentError(fmt::format("{}[{}]: not [token, score]", path, i));
    }
    const auto score = entry[1].get<double>();
    if (!(score >= -kMaxScore && score <= kMaxScore)) {
      return absl::InvalidArgumentError(fmt::format(
          "{}[{}]: {} is not a score in [{}, {}]", path, i, score, -kMaxScore, kMaxScore));
    }
    const auto& text = entry[0].get_ref<const std::string&>();
    const auto id = static_cast<int32_t>(i);
    model->tokens.push_back({text, score});
    vocab->ids[text] = id;
    vocab->tokens.emplace_back(text, id);
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelJson> ParseUnigram(JsonReader* reader) {
  ASSIGN_OR_RETURN(const nlohmann::json* tokens, reader->Any("vocab"));
  UnigramVocab model;
  if (reader->Has("byte_fallback")) {
    ASSIGN_OR_RETURN(model.byte_fallback, reader->Bool("byte_fallback"));
  }
  reader->Ignore("byte_fallback");
  ModelJson result;
  RETURN_IF_ERROR(ReadUnigramVocab(*tokens, reader->path() + ".vocab", &model, &result.vocab));
  if (!reader->Has("unk_id")) {
    return reader->Error("unk_id", "missing: texts with unknown characters would have no tokens");
  }
  ASSIGN_OR_RETURN(model.unk_id,
                   reader->Int32("unk_id", {0, static_cast<int64_t>(model.tokens.size()) - 1}));
  RETURN_IF_ERROR(reader->Finish());
  result.model = std::make_unique<Unigram>(model);
  return result;
}

absl::StatusOr<ModelJson> ParseWordPiece(JsonReader* reader) {
  ASSIGN_OR_RETURN(const nlohmann::json* tokens, reader->Any("vocab"));
  std::string prefix = "##";
  if (reader->Has("continuing_subword_prefix")) {
    ASSIGN_OR_RETURN(prefix, reader->String("continuing_subword_prefix"));
  }
  reader->Ignore("continuing_subword_prefix");
  int64_t max_chars = 100;
  if (reader->Has("max_input_chars_per_word")) {
    ASSIGN_OR_RETURN(max_chars, reader->Int64("max_input_chars_per_word", {0, int64_t{1} << 40}));
  }
  reader->Ignore("max_input_chars_per_word");
  ModelJson result;
  ASSIGN_OR_RETURN(result.vocab, ReadVocabObject(*tokens, reader->path() + ".vocab"));
  ASSIGN_OR_RETURN(const int32_t unk_id, ReadTokenName(reader, "unk_token", result.vocab));
  RETURN_IF_ERROR(reader->Finish());
  result.model = std::make_unique<WordPiece>(
      result.vocab.Entries(), prefix, static_cast<size_t>(max_chars), unk_id);
  return result;
}

absl::StatusOr<ModelJson> ParseWordLevel(JsonReader* reader) {
  ASSIGN_OR_RETURN(const nlohmann::json* tokens, reader->Any("vocab"));
  ModelJson result;
  ASSIGN_OR_RETURN(result.vocab, ReadVocabObject(*tokens, reader->path() + ".vocab"));
  ASSIGN_OR_RETURN(const int32_t unk_id, ReadTokenName(reader, "unk_token", result.vocab));
  RETURN_IF_ERROR(reader->Finish());
  result.model = std::make_unique<WordLevel>(result.vocab.Entries(), unk_id);
  return result;
}

// Old files do not name it.
std::string TypeByKeys(const JsonReader& reader, const nlohmann::json& value) {
  return reader.Has("merges")                                   ? "BPE"
         : reader.Has("max_input_chars_per_word")               ? "WordPiece"
         : value.contains("vocab") && value["vocab"].is_array() ? "Unigram"
                                                                : "WordLevel";
}

}  // namespace

absl::StatusOr<ModelJson> ParseModelJson(const nlohmann::json& value,
                                         const std::string& path,
                                         PreTokenizer* pre_tokenizer) {
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(value, path));
  std::string type = TypeByKeys(reader, value);
  if (reader.Has("type")) {
    ASSIGN_OR_RETURN(type, reader.Enum("type", {"BPE", "Unigram", "WordPiece", "WordLevel"}));
  }
  reader.Ignore("type");
  return type == "BPE"         ? ParseBpeJson(&reader, pre_tokenizer)
         : type == "Unigram"   ? ParseUnigram(&reader)
         : type == "WordPiece" ? ParseWordPiece(&reader)
                               : ParseWordLevel(&reader);
}

}  // namespace ringserve
