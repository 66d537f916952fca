#include "engine/constraint/stacks.h"

#include <algorithm>

namespace ringserve {

Stacks::Stacks() {
  const Frame bottom;
  Intern({&bottom, 1});
}

int32_t Stacks::Intern(std::span<const Frame> frames) {
  std::string key(reinterpret_cast<const char*>(frames.data()), frames.size_bytes());
  const auto [found, is_new] = ids_.try_emplace(std::move(key), static_cast<int32_t>(sets_.size()));
  if (is_new) {
    int32_t depth = 0;
    for (const Frame& frame : frames) {
      if (frame.below != kNothing) {
        depth = std::max(depth, 1 + sets_[static_cast<size_t>(frame.below)].depth);
      }
    }
    sets_.push_back({frames_.size(), frames.size(), depth});
    frames_.insert(frames_.end(), frames.begin(), frames.end());
  }
  return found->second;
}

int32_t Stacks::Union(int32_t a, int32_t b) {
  if (a == b || b == kNothing) {
    return a;
  }
  if (a == kNothing) {
    return b;
  }
  const auto key = std::minmax(a, b);
  if (const auto found = unions_.find(key); found != unions_.end()) {
    return found->second;
  }
  std::vector<Frame> merged;
  const std::vector<Frame> left(frames(a).begin(), frames(a).end());
  const std::vector<Frame> right(frames(b).begin(), frames(b).end());
  size_t i = 0;
  size_t j = 0;
  while (i < left.size() || j < right.size()) {
    if (j == right.size() || (i < left.size() && left[i].place() < right[j].place())) {
      merged.push_back(left[i++]);
    } else if (i == left.size() || right[j].place() < left[i].place()) {
      merged.push_back(right[j++]);
    } else {
      merged.push_back(left[i]);
      merged.back().below = Union(left[i++].below, right[j++].below);  // as deep as a stack
    }
  }
  const int32_t set = Intern(merged);
  unions_.emplace(key, set);
  return set;
}

size_t Stacks::num_bytes() const {
  // A hash entry and its string take about 80 bytes.
  return frames_.size() * 2 * sizeof(Frame) + sets_.size() * (sizeof(Set) + 80) +
         unions_.size() * 32;
}

}  // namespace ringserve
