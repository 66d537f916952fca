#include "engine/text/byte_trie.h"

namespace ringserve {

ByteTrie::ByteTrie() : nodes_(1) {
  root_.fill(kNone);
}

void ByteTrie::Add(std::string_view bytes, int32_t value) {
  int32_t node = kRoot;
  for (const char byte : bytes) {
    int32_t child = Child(node, byte);
    if (child == kNone) {
      child = num_nodes();
      nodes_.emplace_back();
      nodes_.back().byte = byte;
      if (node == kRoot) {
        root_[static_cast<uint8_t>(byte)] = child;
      } else {
        nodes_.back().sibling = nodes_[static_cast<size_t>(node)].first_child;
        nodes_[static_cast<size_t>(node)].first_child = child;
      }
    }
    node = child;
  }
  int32_t& slot = nodes_[static_cast<size_t>(node)].value;
  if (slot == kNone) {
    slot = value;
  }
}

int32_t ByteTrie::Child(int32_t node, char byte) const {
  if (node == kRoot) {
    return root_[static_cast<uint8_t>(byte)];
  }
  int32_t child = nodes_[static_cast<size_t>(node)].first_child;
  while (child != kNone && nodes_[static_cast<size_t>(child)].byte != byte) {
    child = nodes_[static_cast<size_t>(child)].sibling;
  }
  return child;
}

std::pair<int32_t, size_t> ByteTrie::Longest(std::string_view text) const {
  std::pair<int32_t, size_t> longest = {kNone, 0};
  int32_t node = kRoot;
  for (size_t i = 0; i < text.size(); ++i) {
    node = Child(node, text[i]);
    if (node == kNone) {
      break;
    }
    if (value(node) != kNone) {
      longest = {value(node), i + 1};
    }
  }
  return longest;
}

}  // namespace ringserve
