// Regular expressions of constraints: the regular part of ECMA 262, which JSON Schema names, with
// the notations that Python shares. Groups of every kind are plain groups; lazy quantifiers
// describe the same texts as greedy ones. \d, \w and \s are ASCII (as ECMA has it), \D, \W and \S
// leave out what ECMA or Unicode counts as such: a text made for a pattern matches it in both
// readings. \p{..} takes general categories. Refused by name: lookaround, backreferences, \b,
// possessive quantifiers and atomic groups, flags.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/constraint/budget.h"
#include "engine/text/char_set.h"

namespace ringserve {

struct PatternNode {
  enum class Kind { kEmpty, kSet, kConcat, kAlternate, kRepeat, kBegin, kEnd };

  Kind kind = Kind::kEmpty;
  CharSet set = {};
  std::vector<int32_t> children = {};
  int32_t min = 0, max = 0;  // kRepeat; max -1: any number
};

struct PatternTree {
  std::vector<PatternNode> nodes;
  int32_t root = 0;
};

// INVALID_ARGUMENT names the place, or that the budget does not suffice for the pattern's sets.
absl::StatusOr<PatternTree> ParsePattern(std::string_view pattern, Budget* budget);

}  // namespace ringserve
