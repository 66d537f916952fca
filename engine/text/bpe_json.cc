#include <array>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/text/bpe.h"
#include "engine/text/byte_level.h"
#include "engine/text/byte_token.h"
#include "engine/text/model_json.h"

namespace ringserve {
namespace {

absl::Status Invalid(std::string_view message) {
  return absl::InvalidArgumentError(std::string(message));
}

using MergeText = std::pair<std::string_view, std::string_view>;

// Both ways of writing a merge: "a b" and ["a", "b"].
std::optional<MergeText> SplitMerge(const nlohmann::json& merge) {
  if (merge.is_string()) {
    const std::string_view text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
      return std::nullopt;
    }
    return MergeText(text.substr(0, space), text.substr(space + 1));
  }
  if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) {
    return std::nullopt;
  }
  return MergeText(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
}

absl::Status ReadMerges(const nlohmann::json& merges,
                        const std::string& path,
                        const VocabJson& vocab,
                        BpeModel* model) {
  if (!merges.is_array()) {
    return Invalid(fmt::format("{}: {} is not an array", path, merges.type_name()));
  }
  model->merges.reserve(merges.size());
  std::string joined;
  for (size_t i = 0; i < merges.size(); ++i) {
    const nlohmann::json& merge = merges[i];
    if (merge.is_string() && merge.get_ref<const std::string&>().rfind("#version", 0) == 0) {
      continue;  // a headline from the days of merges.txt
    }
    const std::optional<MergeText> texts = SplitMerge(merge);
    if (!texts || merge.type() != merges[0].type()) {
      return Invalid(
          fmt::format("{}[{}]: neither two tokens nor, as all others, \"a b\"", path, i));
    }
    const size_t prefix_bytes = model->continuing_prefix.size();
    if (texts->second.size() < prefix_bytes) {
      return Invalid(fmt::format("{}[{}]: {} is shorter than the continuing_subword_prefix",
                                 path,
                                 i,
                                 Quote(texts->second)));
    }
    joined.assign(texts->first).append(texts->second.substr(prefix_bytes));
    std::array<int32_t, 3> ids{};
    const std::array<std::string_view, 3> tokens = {texts->first, texts->second, joined};
    for (size_t k = 0; k < tokens.size(); ++k) {
      ids[k] = vocab.Find(tokens[k]);
      if (ids[k] < 0) {
        return Invalid(
            fmt::format("{}[{}]: {} is not in the vocabulary", path, i, Quote(tokens[k])));
      }
    }
    model->merges.push_back({ids[0], ids[1], ids[2]});
  }
  return absl::OkStatus();
}

// The tokens that consist of bytes, as bytes.
std::vector<BpeToken> ByteTokens(const VocabJson& vocab) {
  std::vector<BpeToken> tokens;
  for (const auto& [text, id] : vocab.tokens) {
    if (auto bytes = BytesOfToken(text); bytes && !bytes->empty()) {
      tokens.push_back({*std::move(bytes), id});
    }
  }
  return tokens;
}

bool EveryByteHasToken(const std::vector<BpeToken>& tokens) {
  std::array<bool, 256> has{};
  size_t count = 0;
  for (const BpeToken& token : tokens) {
    if (token.text.size() == 1 && !has[static_cast<uint8_t>(token.text[0])]) {
      has[static_cast<uint8_t>(token.text[0])] = true;
      ++count;
    }
  }
  return count == has.size();
}

std::vector<int32_t> ByteFallbackIds(const VocabJson& vocab) {
  std::vector<int32_t> ids(256, -1);
  for (const auto& [text, id] : vocab.tokens) {
    if (const std::optional<uint8_t> byte = ByteOfToken(text, /*any_case=*/false)) {
      ids[*byte] = id;
    }
  }
  return ids;
}

absl::StatusOr<std::string> StringOrNone(JsonReader* reader, std::string_view key) {
  std::string text;
  if (reader->Has(key)) {
    ASSIGN_OR_RETURN(text, reader->String(key));
  }
  reader->Ignore(key);
  return text;
}

absl::StatusOr<bool> BoolOrFalse(JsonReader* reader, std::string_view key) {
  bool value = false;
  if (reader->Has(key)) {
    ASSIGN_OR_RETURN(value, reader->Bool(key));
  }
  reader->Ignore(key);
  return value;
}

// A vocabulary with a token for every byte never needs an unk; one is then not looked for.
absl::Status ReadUnknown(JsonReader* reader,
                         const VocabJson& vocab,
                         bool complete,
                         BpeModel* model) {
  if (reader->Has("unk_token")) {
    ASSIGN_OR_RETURN(const std::string unk, reader->String("unk_token"));
    model->unk_id = vocab.Find(unk);
    if (model->unk_id < 0 && !complete) {
      return reader->Error("unk_token", fmt::format("{} is not in the vocabulary", Quote(unk)));
    }
  }
  reader->Ignore("unk_token");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelJson> ParseBpeJson(JsonReader* reader, PreTokenizer* pre_tokenizer) {
  ASSIGN_OR_RETURN(const nlohmann::json* vocab_json, reader->Any("vocab"));
  ASSIGN_OR_RETURN(const nlohmann::json* merges, reader->Any("merges"));
  if (reader->Has("dropout")) {
    ASSIGN_OR_RETURN([[maybe_unused]] const double dropout, reader->Double("dropout", {0, 0}));
  }
  reader->Ignore("dropout");
  BpeModel model;
  ASSIGN_OR_RETURN(model.continuing_prefix, StringOrNone(reader, "continuing_subword_prefix"));
  ASSIGN_OR_RETURN(model.end_suffix, StringOrNone(reader, "end_of_word_suffix"));
  ASSIGN_OR_RETURN(model.fuse_unk, BoolOrFalse(reader, "fuse_unk"));
  ASSIGN_OR_RETURN(model.ignore_merges, BoolOrFalse(reader, "ignore_merges"));
  ASSIGN_OR_RETURN(const bool byte_fallback, BoolOrFalse(reader, "byte_fallback"));
  ModelJson result;
  ASSIGN_OR_RETURN(result.vocab, ReadVocabObject(*vocab_json, reader->path() + ".vocab"));
  RETURN_IF_ERROR(ReadMerges(*merges, reader->path() + ".merges", result.vocab, &model));
  model.tokens = ByteTokens(result.vocab);
  const bool complete = EveryByteHasToken(model.tokens);
  const bool decorated = !model.continuing_prefix.empty() || !model.end_suffix.empty();
  model.by_character = decorated || (byte_fallback && !complete) || !pre_tokenizer->TakeByteLevel();
  RETURN_IF_ERROR(ReadUnknown(reader, result.vocab, complete && !model.by_character, &model));
  RETURN_IF_ERROR(reader->Finish());
  if (model.by_character) {
    model.tokens.clear();
    for (const auto& [text, id] : result.vocab.tokens) {
      if (!text.empty()) {
        model.tokens.push_back({std::string(text), id});
      }
    }
    if (byte_fallback) {
      model.byte_ids = ByteFallbackIds(result.vocab);
    }
  }
  result.model = std::make_unique<Bpe>(std::move(model));
  return result;
}

}  // namespace ringserve
