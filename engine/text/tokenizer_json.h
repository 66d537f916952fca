// Reads tokenizer.json into the pieces of a tokenizer. Whatever cannot be done exactly as Hugging
// Face does it is a problem and names the path.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/problems.h"
#include "engine/text/added_tokens.h"
#include "engine/text/decoder.h"
#include "engine/text/normalizer.h"
#include "engine/text/post_processor.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/text_model.h"
#include "engine/text/token_table.h"

namespace ringserve {

struct TokenizerParts {
  AddedTokens raw_tokens;                  // searched for in the text
  Normalizer normalizer;                   // then the rest is normalized
  AddedTokens normalized_tokens;           // searched for in that
  PreTokenizer pre_tokenizer;              // then what is left is cut into words
  std::unique_ptr<const TextModel> model;  // and each is encoded
  PostProcessor post_processor;
  Decoder decoder;
  TokenTable table;
};

// None if there are problems.
std::optional<TokenizerParts> ReadTokenizerJson(const nlohmann::json& json, Problems* problems);
std::optional<TokenizerParts> ParseTokenizerJson(std::string_view text, Problems* problems);

// DIR/tokenizer.json; without that DIR/tokenizer.model (sentencepiece_model.h), with what
// DIR/tokenizer_config.json says of bos and eos.
std::optional<TokenizerParts> LoadTokenizer(const std::string& model_dir, Problems* problems);

}  // namespace ringserve
