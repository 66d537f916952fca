#include "engine/text/vocab_trie.h"

#include <algorithm>

namespace ringserve {

// Level by level: the strings below a node are a range of the sorted ones.
VocabTrie::VocabTrie(std::vector<Entry> entries) {
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.first < b.first;
  });

  struct Range {
    size_t begin, end, depth;
  };

  std::vector<Range> ranges = {{0, entries.size(), 0}};
  nodes_.emplace_back();
  labels_.push_back(0);
  for (size_t node = 0; node < ranges.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    for (; begin < end && entries[begin].first.size() == depth; ++begin) {
      nodes_[node].value = entries[begin].second;
    }
    const size_t first_child = nodes_.size();
    for (size_t next = begin; begin < end; begin = next) {
      const auto label = static_cast<uint8_t>(entries[begin].first[depth]);
      while (next < end && static_cast<uint8_t>(entries[next].first[depth]) == label) {
        ++next;
      }
      nodes_.emplace_back();
      labels_.push_back(label);
      ranges.push_back({begin, next, depth + 1});
    }
    const size_t num_children = nodes_.size() - first_child;
    nodes_[node].first_child = static_cast<int32_t>(first_child);
    nodes_[node].num_children = static_cast<uint16_t>(num_children);
    if (num_children > kMaxListed) {
      nodes_[node].first_child = static_cast<int32_t>(dense_.size());
      nodes_[node].num_children = kDense;
      dense_.resize(dense_.size() + 256, kNone);
      for (size_t child = first_child; child < nodes_.size(); ++child) {
        dense_[dense_.size() - 256 + labels_[child]] = static_cast<int32_t>(child);
      }
    }
  }
}

std::pair<int32_t, size_t> VocabTrie::Longest(std::string_view text) const {
  std::pair<int32_t, size_t> longest = {kNone, 0};
  ForEachPrefix(text, [&](size_t length, int32_t value) { longest = {value, length}; });
  return longest;
}

int32_t VocabTrie::Find(std::string_view text) const {
  int32_t node = 0;
  for (const char c : text) {
    node = Child(node, static_cast<uint8_t>(c));
    if (node == kNone) {
      return kNone;
    }
  }
  return nodes_[static_cast<size_t>(node)].value;
}

}  // namespace ringserve
