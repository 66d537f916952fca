// Sets of code points, for the character classes of a split pattern.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

namespace ringserve {

inline constexpr char32_t kMaxCodePoint = 0x10ffff;

class CharSet {
 public:
  struct Range {
    char32_t first, last;
    bool operator==(const Range&) const = default;
  };

  CharSet() = default;
  static CharSet Of(char32_t first, char32_t last);
  static CharSet FromRanges(std::vector<Range> ranges);  // in any order, may overlap

  CharSet Union(const CharSet& other) const;
  CharSet Intersection(const CharSet& other) const;
  CharSet Complement() const;
  bool Contains(char32_t code_point) const;
  bool operator==(const CharSet&) const = default;

  // Ascending, disjoint, not adjacent.
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

// "L", "Lu", ... in any case; none if there is no such category.
std::optional<CharSet> GeneralCategory(std::string_view name);

const CharSet& WhiteSpace();        // \s, for the regex engine and for lstrip and rstrip
const CharSet& RegexWord();         // \w in a split pattern (Oniguruma)
const CharSet& RegexBracketWord();  // and in its bracket expressions
const CharSet& AddedTokenWord();    // what is a word around a single_word token (Rust's regex)

}  // namespace ringserve
