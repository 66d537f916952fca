// The characters and sets of a pattern: escapes and bracket expressions in Oniguruma's syntax.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/base/status.h"
#include "engine/text/char_set.h"

namespace ringserve {

// Reads a pattern from left to right. `pattern` is UTF-8 and must outlive it.
class RegexReader {
 public:
  explicit RegexReader(std::string_view pattern) : pattern_(pattern) {}

  bool AtEnd() const { return position_ == pattern_.size(); }

  size_t position() const { return position_; }

  bool LooksAt(std::string_view text) const {
    return pattern_.substr(position_).substr(0, text.size()) == text;
  }

  bool LooksAtDigit() const {
    return !AtEnd() && pattern_[position_] >= '0' && pattern_[position_] <= '9';
  }

  // True and past it if `text` is next.
  bool Accept(std::string_view text);
  char32_t Next();  // requires !AtEnd()
  // Past the digits that are next, if any; numbers above `most` are most + 1.
  std::optional<int32_t> ReadNumber(int32_t most);

  // OK unless what is next repeats what was before.
  absl::Status RefuseQuantifier(std::string_view message) const;

  // INVALID_ARGUMENT naming the place.
  absl::Status Error(size_t position, std::string_view message) const;

 private:
  std::string_view pattern_;
  size_t position_ = 0;
};

// INVALID_ARGUMENT unless it is short and UTF-8.
absl::Status CheckPatternText(std::string_view pattern);

// What an escape stands for: one character (then `character` is set) or a set.
struct RegexEscape {
  CharSet set;
  std::optional<char32_t> character;
};

// After the backslash. Anchors and everything unknown are errors.
absl::StatusOr<RegexEscape> ParseEscape(RegexReader* reader);

// After the '['; reads the ']' too. With `ignore_case` only ASCII characters are accepted.
absl::StatusOr<CharSet> ParseBracket(RegexReader* reader, bool ignore_case, int depth);

// `set` with the other case of its ASCII letters, and the two characters outside ASCII that fold to
// one. Requires only ASCII in `set`.
CharSet FoldAscii(const CharSet& set);

}  // namespace ringserve
