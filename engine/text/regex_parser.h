// The split patterns of tokenizer.json are written for Oniguruma. This reads the part of its syntax
// that tokenizers use and rewrites it for PCRE2, piece by piece, leaving the sets of characters
// apart (regex.h says why). What is not known to mean the same in both is an error that names the
// place; so are properties other than general categories.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/char_set.h"

namespace ringserve {

struct ParsedRegex {
  // A pattern is the concatenation of its parts: PCRE2 syntax, or one character out of a set.
  struct Part {
    std::string syntax;
    int set = -1;  // index into sets; -1: syntax
  };

  std::vector<Part> parts;
  std::vector<CharSet> sets;  // distinct
};

absl::StatusOr<ParsedRegex> ParseRegex(std::string_view pattern);

}  // namespace ringserve
