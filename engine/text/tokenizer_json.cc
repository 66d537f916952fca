#include "engine/text/tokenizer_json.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/text/bpe_json.h"
#include "engine/text/byte_level.h"
#include "engine/text/nfc.h"

namespace ringserve {
namespace {

constexpr size_t kMaxAddedTokenBytes = 1024;  // a search walks at most this far from each place
constexpr size_t kMaxPostProcessorTokens = 1024;

absl::StatusOr<AddedToken> ReadAddedToken(const nlohmann::json& value, const std::string& path) {
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(value, path));
  AddedToken token;
  ASSIGN_OR_RETURN(token.id, reader.Int32("id", {0, kMaxTokenId}));
  ASSIGN_OR_RETURN(token.content, reader.String("content"));
  ASSIGN_OR_RETURN(token.single_word, reader.Bool("single_word"));
  ASSIGN_OR_RETURN(token.lstrip, reader.Bool("lstrip"));
  ASSIGN_OR_RETURN(token.rstrip, reader.Bool("rstrip"));
  ASSIGN_OR_RETURN(token.normalized, reader.Bool("normalized"));
  ASSIGN_OR_RETURN(token.special, reader.Bool("special"));
  RETURN_IF_ERROR(reader.Finish());
  if (token.content.empty() || token.content.size() > kMaxAddedTokenBytes) {
    return reader.Error(
        "content",
        fmt::format("{} bytes, not in [1, {}]", token.content.size(), kMaxAddedTokenBytes));
  }
  return token;
}

// Gives out ids as Hugging Face does, which ignores those in the file: a token of the vocabulary
// keeps its id, the others are numbered behind it. A file that says otherwise is refused.
class AddedTokenIds {
 public:
  explicit AddedTokenIds(const std::unordered_map<std::string_view, int32_t>& vocab)
      : vocab_(vocab) {
    for (const auto& [token, id] : vocab) {
      token_of_.emplace(id, token);
    }
  }

  absl::Status Check(const AddedToken& token, const std::string& path) {
    const auto found = vocab_.find(token.content);
    const auto vocab_size = static_cast<int32_t>(vocab_.size());
    const int32_t expected =
        found != vocab_.end() ? found->second : std::max(vocab_size, largest_ + 1);
    if (token.id != expected) {
      return absl::InvalidArgumentError(
          fmt::format("{}.id: {} is given to a token whose id is {}", path, token.id, expected));
    }
    const auto owner = token_of_.find(token.id);
    if (owner != token_of_.end() && owner->second != token.content) {
      return absl::InvalidArgumentError(
          fmt::format("{}.id: {} belongs to another token of the vocabulary", path, token.id));
    }
    if (!contents_.emplace(token.content, token.id).second) {
      return absl::InvalidArgumentError(fmt::format("{}.content: a duplicate", path));
    }
    largest_ = std::max(largest_, token.id);
    return absl::OkStatus();
  }

 private:
  const std::unordered_map<std::string_view, int32_t>& vocab_;
  std::unordered_map<int32_t, std::string_view> token_of_;
  std::unordered_map<std::string, int32_t> contents_;
  int32_t largest_ = -1;
};

absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(
    JsonReader* root, const std::unordered_map<std::string_view, int32_t>& vocab) {
  std::vector<AddedToken> tokens;
  if (!root->Has("added_tokens")) {
    root->Ignore("added_tokens");
    return tokens;
  }
  ASSIGN_OR_RETURN(const nlohmann::json* list, root->Any("added_tokens"));
  if (!list->is_array()) {
    return root->Error("added_tokens", "not an array");
  }
  AddedTokenIds ids(vocab);
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string path = fmt::format("added_tokens[{}]", i);
    ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken((*list)[i], path));
    RETURN_IF_ERROR(ids.Check(token, path));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

absl::StatusOr<bool> ReadNormalizer(JsonReader* root) {
  if (!root->Has("normalizer")) {
    root->Ignore("normalizer");
    return false;
  }
  ASSIGN_OR_RETURN(JsonReader reader, root->Object("normalizer"));
  ASSIGN_OR_RETURN([[maybe_unused]] const std::string type, reader.Enum("type", {"NFC"}));
  RETURN_IF_ERROR(reader.Finish());
  return true;
}

// ByteLevel, alone or as the one member of a Sequence.
absl::Status CheckDecoder(const nlohmann::json& value, const std::string& path) {
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(value, path));
  ASSIGN_OR_RETURN(const std::string type, reader.Enum("type", {"ByteLevel", "Sequence"}));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const nlohmann::json* decoders, reader.Any("decoders"));
    RETURN_IF_ERROR(reader.Finish());
    if (!decoders->is_array() || decoders->size() != 1) {
      return reader.Error("decoders", "not an array of one");
    }
    return CheckDecoder((*decoders)[0], path + ".decoders[0]");
  }
  for (const std::string_view key : {"add_prefix_space", "trim_offsets", "use_regex"}) {
    reader.Ignore(key);  // a decoder has no use for them
  }
  return reader.Finish();
}

struct Affixes {
  std::vector<int32_t> prefix, suffix;
};

absl::Status ReadTemplate(JsonReader* reader, Affixes* affixes) {
  ASSIGN_OR_RETURN(const nlohmann::json* pieces, reader->Any("single"));
  ASSIGN_OR_RETURN(JsonReader special_tokens, reader->Object("special_tokens"));
  reader->Ignore("pair");  // one text at a time
  RETURN_IF_ERROR(reader->Finish());
  if (!pieces->is_array()) {
    return reader->Error("single", "not an array");
  }
  std::vector<int32_t> prefix;
  bool after_text = false;
  for (size_t i = 0; i < pieces->size(); ++i) {
    const std::string path = fmt::format("{}.single[{}]", reader->path(), i);
    ASSIGN_OR_RETURN(JsonReader piece, JsonReader::Create((*pieces)[i], path));
    const bool is_text = piece.Has("Sequence");
    ASSIGN_OR_RETURN(JsonReader body, piece.Object(is_text ? "Sequence" : "SpecialToken"));
    RETURN_IF_ERROR(piece.Finish());
    ASSIGN_OR_RETURN(const std::string id, body.String("id"));
    body.Ignore("type_id");
    RETURN_IF_ERROR(body.Finish());
    if (is_text) {
      if (id != "A" || after_text) {
        return body.Error("id", "a template must contain A once and nothing of B");
      }
      after_text = true;
      continue;
    }
    ASSIGN_OR_RETURN(JsonReader token, special_tokens.Object(id));
    ASSIGN_OR_RETURN(const nlohmann::json* ids, token.Any("ids"));
    if (!ids->is_array()) {
      return token.Error("ids", "not an array of token ids");
    }
    std::vector<int32_t>& out = after_text ? affixes->suffix : prefix;
    for (const nlohmann::json& value : *ids) {
      if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{kMaxTokenId}) {
        return token.Error("ids", "not an array of token ids");
      }
      out.push_back(value.get<int32_t>());
    }
  }
  if (!after_text) {
    return reader->Error("single", "a template must contain A once and nothing of B");
  }
  affixes->prefix.insert(affixes->prefix.begin(), prefix.begin(), prefix.end());
  return absl::OkStatus();
}

absl::Status ReadPostProcessor(const nlohmann::json& value,
                               const std::string& path,
                               Affixes* affixes) {
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(value, path));
  ASSIGN_OR_RETURN(const std::string type,
                   reader.Enum("type", {"ByteLevel", "TemplateProcessing", "Sequence"}));
  if (affixes->prefix.size() + affixes->suffix.size() > kMaxPostProcessorTokens) {
    return reader.Error(
        "type", fmt::format("more than {} tokens are added to each text", kMaxPostProcessorTokens));
  }
  if (type == "TemplateProcessing") {
    return ReadTemplate(&reader, affixes);
  }
  if (type == "ByteLevel") {  // trims offsets, which are not computed
    for (const std::string_view key : {"add_prefix_space", "trim_offsets", "use_regex"}) {
      reader.Ignore(key);
    }
    return reader.Finish();
  }
  ASSIGN_OR_RETURN(const nlohmann::json* processors, reader.Any("processors"));
  RETURN_IF_ERROR(reader.Finish());
  if (!processors->is_array()) {
    return reader.Error("processors", "not an array");
  }
  for (size_t i = 0; i < processors->size(); ++i) {
    RETURN_IF_ERROR(
        ReadPostProcessor((*processors)[i], fmt::format("{}.processors[{}]", path, i), affixes));
  }
  return absl::OkStatus();
}

// An added token that is searched for in the normalized text also decodes to its normalized form.
// It is skipped as special if that form is the content of a special token, as in `tokenizers` 0.23.
TokenTable MakeTable(const std::unordered_map<std::string_view, int32_t>& vocab,
                     const std::vector<AddedToken>& added_tokens,
                     bool nfc) {
  std::vector<TokenTable::Token> tokens;
  std::unordered_set<std::string_view> specials;
  for (const AddedToken& token : added_tokens) {
    if (token.special) {
      specials.insert(token.content);
    }
  }
  const auto add = [&](std::string_view content, int32_t id) {
    if (static_cast<size_t>(id) >= tokens.size()) {
      tokens.resize(static_cast<size_t>(id) + 1);
    }
    auto bytes = BytesOfToken(content);
    tokens[static_cast<size_t>(id)] = {bytes ? *std::move(bytes) : std::string(content),
                                       specials.contains(content)};
  };
  for (const auto& [content, id] : vocab) {
    add(content, id);
  }
  for (const AddedToken& token : added_tokens) {
    add(token.normalized && nfc ? Nfc(token.content) : token.content, token.id);
  }
  return TokenTable(tokens);
}

// Those with `normalized` as asked for, special ones first, with the contents to search for.
AddedTokens Select(const std::vector<AddedToken>& tokens, bool normalized, bool nfc) {
  std::vector<AddedToken> selected;
  for (const bool special : {true, false}) {
    for (const AddedToken& token : tokens) {
      if (token.normalized == normalized && token.special == special) {
        selected.push_back(token);
        if (normalized && nfc) {
          selected.back().content = Nfc(token.content);
        }
      }
    }
  }
  return AddedTokens(std::move(selected));
}

absl::Status CheckHead(JsonReader* root) {
  if (root->Has("version")) {
    ASSIGN_OR_RETURN([[maybe_unused]] const std::string version, root->Enum("version", {"1.0"}));
  }
  root->Ignore("version");
  for (const std::string_view key : {"truncation", "padding"}) {
    if (root->Has(key)) {
      return root->Error(key, "only null is supported");
    }
    root->Ignore(key);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerParts> ParseTokenizerJson(std::string_view text) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, "tokenizer.json"));
  ASSIGN_OR_RETURN(JsonReader root, JsonReader::Create(json, ""));
  RETURN_IF_ERROR(CheckHead(&root));
  ASSIGN_OR_RETURN(const nlohmann::json* model_json, root.Any("model"));
  ASSIGN_OR_RETURN(const bool nfc, ReadNormalizer(&root));
  ASSIGN_OR_RETURN(const nlohmann::json* pre_tokenizer_json, root.Any("pre_tokenizer"));
  ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer,
                   PreTokenizer::FromJson(*pre_tokenizer_json, "pre_tokenizer"));
  ASSIGN_OR_RETURN(const nlohmann::json* decoder_json, root.Any("decoder"));
  RETURN_IF_ERROR(CheckDecoder(*decoder_json, "decoder"));
  Affixes affixes;
  if (root.Has("post_processor")) {
    ASSIGN_OR_RETURN(const nlohmann::json* processor_json, root.Any("post_processor"));
    RETURN_IF_ERROR(ReadPostProcessor(*processor_json, "post_processor", &affixes));
  }
  root.Ignore("post_processor");
  ASSIGN_OR_RETURN(BpeJson bpe, ParseBpeJson(*model_json, "model"));
  ASSIGN_OR_RETURN(const std::vector<AddedToken> added_tokens, ReadAddedTokens(&root, bpe.vocab));
  RETURN_IF_ERROR(root.Finish());
  TokenTable table = MakeTable(bpe.vocab, added_tokens, nfc);
  for (const std::vector<int32_t>& ids : {affixes.prefix, affixes.suffix}) {
    for (const int32_t id : ids) {
      if (!table.Contains(id)) {
        return root.Error("post_processor", fmt::format("there is no token {}", id));
      }
    }
  }
  return TokenizerParts{Select(added_tokens, false, nfc),
                        nfc,
                        Select(added_tokens, true, nfc),
                        std::move(pre_tokenizer),
                        Bpe(std::move(bpe.model)),
                        std::move(affixes.prefix),
                        std::move(affixes.suffix),
                        std::move(table)};
}

}  // namespace ringserve
