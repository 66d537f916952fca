#include "engine/text/tokenizer_json.h"

#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/text/added_tokens_json.h"
#include "engine/text/byte_level.h"
#include "engine/text/model_json.h"

namespace ringserve {
namespace {

// A token that is searched for in the normalized text is searched for in its normalized form, and
// that is also what it decodes to. Whether it is skipped as special goes by that form too, as in
// `tokenizers` 0.23.
void NormalizeContents(const Normalizer& normalizer,
                       std::vector<AddedToken>* tokens,
                       Problems* problems) {
  RegexScratch scratch;
  for (size_t i = 0; i < tokens->size(); ++i) {
    AddedToken& token = (*tokens)[i];
    if (!token.normalized) {
      continue;
    }
    NormalizedText text{token.content, true, FirstHead(token.content)};
    problems->Add(normalizer.Apply(&text, &scratch));
    if (text.text.empty()) {
      problems->Add(
          fmt::format("added_tokens[{}].content: the normalizer leaves nothing of it", i));
    }
    token.content = std::move(text.text);
  }
}

std::unordered_set<std::string> SpecialContents(const std::vector<AddedToken>& tokens) {
  std::unordered_set<std::string> contents;
  for (const AddedToken& token : tokens) {
    if (token.special) {
      contents.insert(token.content);
    }
  }
  return contents;
}

TokenTable MakeTable(const VocabJson& vocab,
                     const std::vector<AddedToken>& normalized_tokens,
                     const std::unordered_set<std::string>& specials,
                     const Decoder& decoder) {
  std::vector<TokenTable::Token> tokens;
  const auto add = [&](std::string_view content, int32_t id) {
    if (static_cast<size_t>(id) >= tokens.size()) {
      tokens.resize(static_cast<size_t>(id) + 1);
    }
    tokens[static_cast<size_t>(id)] = {std::string(content),
                                       decoder.BytesInside(content),
                                       specials.contains(std::string(content)),
                                       true};
  };
  for (const auto& [content, id] : vocab.tokens) {
    add(content, id);
  }
  for (const AddedToken& token : normalized_tokens) {
    add(token.content, token.id);
  }
  return TokenTable(tokens);
}

// Those with `normalized` as asked for, special ones first.
AddedTokens Select(const std::vector<AddedToken>& tokens, bool normalized) {
  std::vector<AddedToken> selected;
  for (const bool special : {true, false}) {
    for (const AddedToken& token : tokens) {
      if (token.normalized == normalized && token.special == special) {
        selected.push_back(token);
      }
    }
  }
  return AddedTokens(std::move(selected));
}

// transformers, too, passes over what a file says of truncation and padding: both are for a caller
// to ask for.
void CheckHead(JsonReader* root, Problems* problems) {
  if (root->Has("version")) {
    problems->Add(root->Enum("version", {"1.0"}).status());
  }
  root->Ignore("version");
  for (const std::string_view key : {"truncation", "padding"}) {
    if (root->Has(key)) {
      problems->Add(root->Object(key).status());
    }
    root->Ignore(key);
  }
}

const nlohmann::json& SectionOrNull(JsonReader* root,
                                    const nlohmann::json& json,
                                    std::string_view key) {
  static const nlohmann::json null;
  root->Ignore(key);
  const auto found = json.find(std::string(key));
  return found == json.end() ? null : *found;
}

}  // namespace

std::optional<TokenizerParts> ParseTokenizerJson(std::string_view text, Problems* problems) {
  nlohmann::json json;
  return problems->Take(ParseJson(text, "tokenizer.json"), json) ? ReadTokenizerJson(json, problems)
                                                                 : std::nullopt;
}

std::optional<TokenizerParts> ReadTokenizerJson(const nlohmann::json& json, Problems* problems) {
  std::optional<JsonReader> root;
  if (!problems->Take(JsonReader::Create(json, ""), root)) {
    return std::nullopt;
  }
  CheckHead(&*root, problems);
  const auto section = [&](std::string_view key) -> const nlohmann::json& {
    return SectionOrNull(&*root, json, key);
  };
  Normalizer normalizer = Normalizer::FromJson(section("normalizer"), "normalizer", problems);
  PreTokenizer pre_tokenizer =
      PreTokenizer::FromJson(section("pre_tokenizer"), "pre_tokenizer", problems);
  Decoder decoder = Decoder::FromJson(section("decoder"), "decoder", problems);
  PostProcessor post_processor =
      PostProcessor::FromJson(section("post_processor"), "post_processor", problems);
  const nlohmann::json& added_json = section("added_tokens");
  const nlohmann::json* model_json = nullptr;
  ModelJson model;
  if (!problems->Take(root->Any("model"), model_json) ||
      !problems->Take(ParseModelJson(*model_json, "model", &pre_tokenizer), model)) {
    problems->Add(root->Finish());
    return std::nullopt;
  }
  problems->Add(root->Finish());
  std::vector<AddedToken> added =
      ReadAddedTokens(added_json, "added_tokens", model.vocab, problems);
  const std::unordered_set<std::string> specials = SpecialContents(added);
  if (problems->empty()) {
    NormalizeContents(normalizer, &added, problems);
  }
  if (!problems->empty()) {
    return std::nullopt;
  }
  TokenTable table = MakeTable(model.vocab, added, specials, decoder);
  for (const std::vector<int32_t>& ids : {post_processor.prefix, post_processor.suffix}) {
    for (const int32_t id : ids) {
      if (!table.Contains(id)) {
        problems->Add(fmt::format("post_processor: there is no token {}", id));
        return std::nullopt;
      }
    }
  }
  return TokenizerParts{Select(added, false),
                        std::move(normalizer),
                        Select(added, true),
                        std::move(pre_tokenizer),
                        std::move(model.model),
                        std::move(post_processor),
                        std::move(decoder),
                        std::move(table)};
}

}  // namespace ringserve
