// A set of byte strings that is walked byte by byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace ringserve {

class ByteTrie {
 public:
  static constexpr int32_t kRoot = 0;
  static constexpr int32_t kNone = -1;

  ByteTrie();

  // Requires value >= 0. Of equal strings the first value stays.
  void Add(std::string_view bytes, int32_t value);
  // The node below `node` along `byte`, or kNone.
  int32_t Child(int32_t node, char byte) const;

  // Of the string that ends here, or kNone.
  int32_t value(int32_t node) const { return nodes_[static_cast<size_t>(node)].value; }

  int32_t num_nodes() const { return static_cast<int32_t>(nodes_.size()); }

  // Calls visit(byte, child) for the children of `node`.
  template <typename Visit>
  void ForEachChild(int32_t node, Visit visit) const {
    if (node == kRoot) {
      for (size_t byte = 0; byte < root_.size(); ++byte) {
        if (root_[byte] != kNone) {
          visit(static_cast<char>(byte), root_[byte]);
        }
      }
      return;
    }
    for (int32_t child = nodes_[static_cast<size_t>(node)].first_child; child != kNone;
         child = nodes_[static_cast<size_t>(child)].sibling) {
      visit(nodes_[static_cast<size_t>(child)].byte, child);
    }
  }

  // Value and length of the longest string that `text` begins with; {kNone, 0} if there is none.
  std::pair<int32_t, size_t> Longest(std::string_view text) const;

 private:
  struct Node {
    int32_t value = kNone;
    int32_t first_child = kNone;
    int32_t sibling = kNone;
    char byte = 0;
  };

  std::vector<Node> nodes_;
  std::array<int32_t, 256> root_;  // children of the root, the one node that may have many
};

}  // namespace ringserve
