// Finds stop strings in a text that comes in pieces, and holds back what may still become one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/byte_trie.h"

namespace ringserve {

class StopMatcher {
 public:
  // Of equal strings the first is found; empty ones and those that are not UTF-8 never.
  explicit StopMatcher(const std::vector<std::string>& stop_strings);

  // Appends to `out` what is decided. The index of the stop string that is now complete: then `out`
  // ends before it, and nothing may be pushed any more. Linear in the text, whatever the strings.
  std::optional<int32_t> Push(std::string_view text, std::string* out);
  // The end: appends what was held back.
  void Finish(std::string* out);

 private:
  void Link();
  int32_t Step(int32_t node, char byte) const;

  // The automaton of Aho and Corasick. A node stands for the beginning of a stop string.
  struct Node {
    int32_t fallback = ByteTrie::kRoot;  // its longest proper suffix that is a node
    int32_t depth = 0;                   // in bytes
    int32_t stop = -1;                   // the longest stop string that it ends with
    int32_t stop_length = 0;
  };

  ByteTrie trie_;
  std::vector<Node> nodes_;
  int32_t node_ = ByteTrie::kRoot;  // the longest that the text ends with
  std::string held_;
};

}  // namespace ringserve
