// Sets of characters as sequences of byte ranges: as UTF-8, or as a JSON string spells them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/constraint/dfa.h"
#include "engine/text/char_set.h"

namespace ringserve {

// How a text is spelled. Of the spellings that JSON knows for a character kJsonString takes one:
// itself, or for quote, backslash and control characters the shortest escape.
enum class TextForm { kPlain, kJsonString };

// Each sequence is 1 to 6 ranges, and all strings out of it are one character of the set. Of two
// sequences that share a beginning, ranges at one place are equal or disjoint. Surrogates are no
// characters.
std::vector<std::vector<ByteRange>> ByteSequences(const CharSet& set, TextForm form);

// The same as an acyclic automaton, the smallest one: sets of letters have hundreds of sequences,
// most of which end alike.
struct ByteGraph {
  static constexpr int32_t kEnd = -1;

  struct Edge {
    ByteRange range;
    int32_t to;  // a node, or kEnd
  };

  std::vector<std::vector<Edge>> nodes;  // none: the set is empty
  int32_t start = 0;
};

ByteGraph ByteGraphOf(const CharSet& set, TextForm form);

// The bytes of `text`, which is UTF-8, in that form; of a JSON string without the quotes.
std::string InForm(std::string_view text, TextForm form);

}  // namespace ringserve
