#include "engine/text/stop_matcher.h"

#include "engine/text/utf8.h"

namespace ringserve {

StopMatcher::StopMatcher(const std::vector<std::string>& stop_strings) : nodes_(1) {
  for (size_t i = 0; i < stop_strings.size(); ++i) {
    const std::string& stop = stop_strings[i];
    if (!stop.empty() && ValidUtf8Prefix(stop) == stop.size()) {
      trie_.Add(stop, static_cast<int32_t>(i));
    }
  }
  Link();
}

void StopMatcher::Link() {
  nodes_.resize(static_cast<size_t>(trie_.num_nodes()));
  // Breadth first: a fallback is shallower, so it is complete when it is needed.
  std::vector<int32_t> order = {ByteTrie::kRoot};
  for (size_t i = 0; i < order.size(); ++i) {
    const int32_t parent = order[i];
    trie_.ForEachChild(parent, [&](char byte, int32_t child) {
      Node& node = nodes_[static_cast<size_t>(child)];
      node.depth = nodes_[static_cast<size_t>(parent)].depth + 1;
      if (parent != ByteTrie::kRoot) {
        node.fallback = Step(nodes_[static_cast<size_t>(parent)].fallback, byte);
      }
      const Node& fallback = nodes_[static_cast<size_t>(node.fallback)];
      const bool is_stop = trie_.value(child) != ByteTrie::kNone;
      node.stop = is_stop ? trie_.value(child) : fallback.stop;
      node.stop_length = is_stop ? node.depth : fallback.stop_length;
      order.push_back(child);
    });
  }
}

int32_t StopMatcher::Step(int32_t node, char byte) const {
  while (true) {
    const int32_t child = trie_.Child(node, byte);
    if (child != ByteTrie::kNone) {
      return child;
    }
    if (node == ByteTrie::kRoot) {
      return ByteTrie::kRoot;
    }
    node = nodes_[static_cast<size_t>(node)].fallback;
  }
}

std::optional<int32_t> StopMatcher::Push(std::string_view text, std::string* out) {
  const size_t num_held = held_.size();
  held_ += text;
  for (size_t i = num_held; i < held_.size(); ++i) {
    node_ = Step(node_, held_[i]);
    const Node& node = nodes_[static_cast<size_t>(node_)];
    if (node.stop >= 0) {
      out->append(held_, 0, i + 1 - static_cast<size_t>(node.stop_length));
      held_.clear();
      return node.stop;
    }
  }
  const auto undecided = static_cast<size_t>(nodes_[static_cast<size_t>(node_)].depth);
  out->append(held_, 0, held_.size() - undecided);
  held_.erase(0, held_.size() - undecided);
  return std::nullopt;
}

void StopMatcher::Finish(std::string* out) {
  out->append(held_);
  held_.clear();
}

}  // namespace ringserve
