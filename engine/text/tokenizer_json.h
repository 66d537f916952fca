// Reads tokenizer.json into the pieces of a tokenizer. Whatever cannot be done exactly as Hugging
// Face does it is INVALID_ARGUMENT and names the path.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/token_table.h"

namespace ringserve {

struct TokenizerParts {
  AddedTokens raw_tokens;         // searched for in the text
  bool nfc;                       // then the rest is normalized
  AddedTokens normalized_tokens;  // searched for in that
  PreTokenizer pre_tokenizer;     // then what is left is cut into words
  Bpe bpe;                        // and each is encoded
  std::vector<int32_t> prefix;    // what the post-processor adds
  std::vector<int32_t> suffix;
  TokenTable table;
};

absl::StatusOr<TokenizerParts> ParseTokenizerJson(std::string_view text);

}  // namespace ringserve
