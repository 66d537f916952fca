// The tokens that are found in a text before anything else happens to it: special ones such as
// <|endoftext|>, and ordinary ones that were added to a vocabulary later.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/byte_trie.h"

namespace ringserve {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // not where a word character is its neighbour
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // searched for in the normalized text
  bool special = false;
};

// One set of tokens, all of which are searched for in the same text.
class AddedTokens {
 public:
  struct Piece {
    std::string_view text;
    int32_t id = -1;  // -1: text between tokens
  };

  // `tokens` with the contents to search for, not empty; of equal contents the first counts.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  // Cuts `text` (valid UTF-8) into tokens and what is between them, from left to right, the longest
  // token at each place. Without `parse_special` special tokens are found too and then left as
  // text: none that hides in one is seen, as Hugging Face has it.
  std::vector<Piece> Cut(std::string_view text, bool parse_special) const;

 private:
  bool StandsAlone(std::string_view text, size_t begin, size_t end) const;

  std::vector<AddedToken> tokens_;
  ByteTrie trie_;
  std::array<bool, 256> may_begin_{};
};

}  // namespace ringserve
