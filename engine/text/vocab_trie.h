// A vocabulary that is walked byte by byte. Built once; the children of a node lie side by side.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ringserve {

class VocabTrie {
 public:
  static constexpr int32_t kNone = -1;

  VocabTrie() : VocabTrie(std::vector<Entry>()) {}

  using Entry = std::pair<std::string, int32_t>;  // the value is not negative

  // Of equal strings the last value counts.
  explicit VocabTrie(std::vector<Entry> entries);

  // Value and length of the longest string, not empty, that `text` begins with; {kNone, 0} if there
  // is none.
  std::pair<int32_t, size_t> Longest(std::string_view text) const;

  // The value of `text`, or kNone.
  int32_t Find(std::string_view text) const;

  // Calls visit(length, value) for each string, not empty, that `text` begins with, the shortest
  // first.
  template <typename Visit>
  void ForEachPrefix(std::string_view text, Visit visit) const {
    int32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      node = Child(node, static_cast<uint8_t>(text[i]));
      if (node == kNone) {
        return;
      }
      if (const int32_t value = nodes_[static_cast<size_t>(node)].value; value != kNone) {
        visit(i + 1, value);
      }
    }
  }

 private:
  struct Node {
    int32_t value = kNone;
    int32_t first_child = 0;    // node; or, if dense, index into dense_
    uint16_t num_children = 0;  // kDense: a table of 256
  };

  static constexpr uint16_t kDense = 0xffff;
  static constexpr size_t kMaxListed = 8;  // more children are found by a table

  int32_t Child(int32_t node, uint8_t byte) const {
    const Node& parent = nodes_[static_cast<size_t>(node)];
    const auto first = static_cast<size_t>(parent.first_child);
    if (parent.num_children == kDense) {
      return dense_[first + byte];
    }
    for (size_t i = 0; i < parent.num_children; ++i) {
      if (labels_[first + i] == byte) {
        return static_cast<int32_t>(first + i);
      }
    }
    return kNone;
  }

  std::vector<Node> nodes_;      // 0: the root
  std::vector<uint8_t> labels_;  // of the way to a node
  std::vector<int32_t> dense_;
};

}  // namespace ringserve
