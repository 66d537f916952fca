// Patterns to automata: Thompson's construction (1968), then subsets. An anchor is an edge that is
// passed only where it holds, so that '^' and '$' may stand anywhere.
#pragma once

#include <string_view>

#include "engine/base/status.h"
#include "engine/constraint/budget.h"
#include "engine/constraint/char_bytes.h"
#include "engine/constraint/dfa.h"

namespace ringserve {

enum class Match { kWhole, kSomewhere };  // kSomewhere: the pattern matches a part of the text

// The texts that `pattern` matches, spelled in `form`. INVALID_ARGUMENT: not a pattern, one that is
// not supported, or too large. An empty language is no error.
absl::StatusOr<Dfa> PatternDfa(std::string_view pattern,
                               Match match,
                               TextForm form,
                               Budget* budget);

// All texts.
const Dfa& AnyTextDfa(TextForm form);

}  // namespace ringserve
