// Sets of stacks, kept once each: what a constraint has begun and must still end. A set is a list
// of frames, each with the set of what lies below it; frames of one place are one frame over the
// union. So the stacks of an ambiguous text share what they have in common, and a set has at most
// as many frames as the grammar has places (the graph-structured stack of Tomita 1987, made
// canonical).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_map.h>

namespace ringserve {

class Stacks {
 public:
  static constexpr int32_t kNothing = -1;  // no set
  static constexpr int32_t kBottom = 0;    // the one empty stack: the end of the text

  struct Frame {
    int32_t instruction = -1;  // where to go on; -1: the bottom
    int32_t count = 0;         // rounds of a repeat that are done
    int32_t below = kNothing;
    bool operator==(const Frame&) const = default;

    bool SamePlace(const Frame& other) const {
      return instruction == other.instruction && count == other.count;
    }

    auto place() const { return std::pair(instruction, count); }
  };

  Stacks();

  int32_t Push(Frame frame) { return Intern({&frame, 1}); }

  // Either may be kNothing.
  int32_t Union(int32_t a, int32_t b);

  std::span<const Frame> frames(int32_t set) const {
    const Set& is = sets_[static_cast<size_t>(set)];
    return std::span(frames_).subspan(is.first, is.count);
  }

  // Frames of the deepest stack.
  int32_t depth(int32_t set) const { return sets_[static_cast<size_t>(set)].depth; }

  size_t num_bytes() const;

 private:
  struct Set {
    size_t first = 0;
    size_t count = 0;
    int32_t depth = 0;
  };

  // Ascending by place, each place once.
  int32_t Intern(std::span<const Frame> frames);

  std::vector<Frame> frames_;
  std::vector<Set> sets_;
  absl::flat_hash_map<std::string, int32_t> ids_;
  absl::flat_hash_map<std::pair<int32_t, int32_t>, int32_t> unions_;
};

}  // namespace ringserve
