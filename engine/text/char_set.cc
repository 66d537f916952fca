#include "engine/text/char_set.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <initializer_list>
#include <string>

#include "engine/text/unicode_tables.h"

namespace ringserve {
namespace {

CharSet AnyOf(std::initializer_list<std::string_view> categories,
              std::initializer_list<CharSet::Range> more) {
  CharSet set = CharSet::FromRanges(more);
  for (const std::string_view category : categories) {
    set = set.Union(*GeneralCategory(category));
  }
  return set;
}

// Letters, marks, decimal digits, letter numbers, connectors, circled letters and what is added.
CharSet Word(std::initializer_list<CharSet::Range> added) {
  return AnyOf({"L", "M", "Nd", "Nl", "Pc"},
               {{0x24b6, 0x24e9}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}})
      .Union(CharSet::FromRanges(added));
}

}  // namespace

CharSet CharSet::Of(char32_t first, char32_t last) {
  return FromRanges({{first, last}});
}

CharSet CharSet::FromRanges(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return a.first < b.first;
  });
  CharSet set;
  for (const Range& range : ranges) {
    if (!set.ranges_.empty() && range.first <= set.ranges_.back().last + 1) {
      set.ranges_.back().last = std::max(set.ranges_.back().last, range.last);
    } else {
      set.ranges_.push_back(range);
    }
  }
  return set;
}

CharSet CharSet::Union(const CharSet& other) const {
  std::vector<Range> ranges = ranges_;
  ranges.insert(ranges.end(), other.ranges_.begin(), other.ranges_.end());
  return FromRanges(std::move(ranges));
}

CharSet CharSet::Intersection(const CharSet& other) const {
  return Complement().Union(other.Complement()).Complement();
}

CharSet CharSet::Complement() const {
  CharSet set;
  char32_t next = 0;
  for (const Range& range : ranges_) {
    if (range.first > next) {
      set.ranges_.push_back({next, range.first - 1});
    }
    next = range.last + 1;
  }
  if (next <= kMaxCodePoint) {
    set.ranges_.push_back({next, kMaxCodePoint});
  }
  return set;
}

bool CharSet::Contains(char32_t code_point) const {
  const auto after = std::upper_bound(
      ranges_.begin(), ranges_.end(), code_point, [](char32_t value, const Range& range) {
        return value < range.first;
      });
  return after != ranges_.begin() && code_point <= std::prev(after)->last;
}

std::optional<CharSet> GeneralCategory(std::string_view name) {
  if (name.empty() || name.size() > 2) {
    return std::nullopt;
  }
  std::string wanted(1, static_cast<char>(std::toupper(static_cast<unsigned char>(name[0]))));
  if (name.size() == 2) {
    wanted.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(name[1]))));
  }
  std::array<bool, kCategoryNames.size()> in_set{};
  bool found = false;
  for (size_t i = 0; i < kCategoryNames.size(); ++i) {
    in_set[i] = std::string_view(kCategoryNames[i]).substr(0, wanted.size()) == wanted;
    found = found || in_set[i];
  }
  if (!found) {
    return std::nullopt;
  }
  static const std::vector<CodePointRun> runs = UnpackRuns(PackedCategories());
  std::vector<CharSet::Range> ranges;
  for (const CodePointRun& run : runs) {
    if (in_set[run.value]) {
      ranges.push_back({run.first, run.last});
    }
  }
  return CharSet::FromRanges(std::move(ranges));
}

const CharSet& WhiteSpace() {
  static const CharSet set = AnyOf({"Z"}, {{0x09, 0x0d}, {0x85, 0x85}});
  return set;
}

// Oniguruma has a table of its own for Latin-1, which it asks outside brackets alone: there
// superscripts and fractions count.
const CharSet& RegexWord() {
  static const CharSet set = Word({{0xb2, 0xb3}, {0xb9, 0xb9}, {0xbc, 0xbe}});
  return set;
}

const CharSet& RegexBracketWord() {
  static const CharSet set = Word({});
  return set;
}

// With the two joiners.
const CharSet& AddedTokenWord() {
  static const CharSet set = Word({{0x200c, 0x200d}});
  return set;
}

}  // namespace ringserve
