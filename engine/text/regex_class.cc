#include "engine/text/regex_class.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "engine/text/utf8.h"

namespace ringserve {
namespace {

constexpr int kMaxBracketDepth = 16;

bool IsAsciiLetter(char32_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool IsAsciiAlphanumeric(char32_t c) {
  return IsAsciiLetter(c) || (c >= '0' && c <= '9');
}

CharSet HexDigits() {
  return CharSet::FromRanges({{'0', '9'}, {'a', 'f'}, {'A', 'F'}});
}

std::optional<uint32_t> HexValue(std::string_view digits) {
  uint32_t value = 0;
  for (const char c : digits) {
    if (c >= '0' && c <= '9') {
      value = value * 16 + static_cast<uint32_t>(c - '0');
    } else if (IsAsciiLetter(static_cast<uint8_t>(c)) && (c | 0x20) <= 'f') {
      value = value * 16 + static_cast<uint32_t>((c | 0x20) - 'a') + 10;
    } else {
      return std::nullopt;
    }
  }
  return digits.empty() || digits.size() > 6 ? std::nullopt : std::optional(value);
}

// \xHH, \x{H...}, \uHHHH: after the letter.
absl::StatusOr<RegexEscape> ParseHex(RegexReader* reader, char32_t letter, size_t start) {
  std::string digits;
  const bool braced = letter == 'x' && reader->Accept("{");
  if (braced) {
    while (!reader->AtEnd() && !reader->LooksAt("}")) {
      AppendUtf8(reader->Next(), &digits);
    }
    if (!reader->Accept("}")) {
      return reader->Error(start, "\\x{ without }");
    }
  } else {
    for (int i = letter == 'x' ? 2 : 4; i > 0 && !reader->AtEnd(); --i) {
      AppendUtf8(reader->Next(), &digits);
    }
  }
  const auto value = HexValue(digits);
  const bool short_form = digits.size() != (letter == 'x' ? 2 : 4);
  if (!value || (!braced && short_form) || *value > kMaxCodePoint ||
      (*value >= 0xd800 && *value < 0xe000)) {
    return reader->Error(start, "not a code point");
  }
  if (letter == 'x' && !braced && *value >= 0x80) {
    return reader->Error(start, "\\x of a byte above 7F is not supported");
  }
  return RegexEscape{.set = {}, .character = static_cast<char32_t>(*value)};
}

// \p{...} and \P{...}: after the letter.
absl::StatusOr<RegexEscape> ParseProperty(RegexReader* reader, bool negated, size_t start) {
  if (!reader->Accept("{")) {
    return reader->Error(start, "\\p needs {name}");
  }
  if (reader->Accept("^")) {
    negated = !negated;
  }
  std::string name;
  while (!reader->AtEnd() && !reader->LooksAt("}")) {
    AppendUtf8(reader->Next(), &name);
  }
  const std::optional<CharSet> set = GeneralCategory(name);
  if (!reader->Accept("}") || !set) {
    return reader->Error(
        start, fmt::format("property \"{}\" is not supported (general categories are)", name));
  }
  return RegexEscape{.set = negated ? set->Complement() : *set, .character = {}};
}

std::optional<CharSet> ShorthandSet(char32_t letter) {
  switch (letter) {
    case 's':
      return WhiteSpace();
    case 'S':
      return WhiteSpace().Complement();
    case 'd':
      return GeneralCategory("Nd");
    case 'D':
      return GeneralCategory("Nd")->Complement();
    case 'w':
      return RegexWord();
    case 'W':
      return RegexWord().Complement();
    case 'h':
      return HexDigits();
    case 'H':
      return HexDigits().Complement();
    default:
      return std::nullopt;
  }
}

std::optional<char32_t> ControlCharacter(char32_t letter) {
  switch (letter) {
    case 't':
      return U'\t';
    case 'n':
      return U'\n';
    case 'r':
      return U'\r';
    case 'f':
      return U'\f';
    case 'v':
      return U'\v';
    case 'a':
      return U'\a';
    case 'e':
      return 0x1b;
    default:
      return std::nullopt;
  }
}

// One item of a bracket expression, or the first end of a range.
absl::StatusOr<RegexEscape> ParseItem(RegexReader* reader) {
  if (reader->Accept("\\w")) {
    return RegexEscape{.set = RegexBracketWord(), .character = {}};
  }
  if (reader->Accept("\\W")) {
    return RegexEscape{.set = RegexBracketWord().Complement(), .character = {}};
  }
  if (reader->Accept("\\")) {
    return ParseEscape(reader);
  }
  return RegexEscape{.set = {}, .character = reader->Next()};
}

absl::StatusOr<CharSet> ParseItemOrRange(RegexReader* reader) {
  const size_t start = reader->position();
  ASSIGN_OR_RETURN(const RegexEscape item, ParseItem(reader));
  if (!reader->LooksAt("-") || reader->LooksAt("-]")) {
    return item.character ? CharSet::Of(*item.character, *item.character) : item.set;
  }
  reader->Accept("-");
  if (!item.character || reader->AtEnd() || reader->LooksAt("[") || reader->LooksAt("&&")) {
    return reader->Error(start, "'-' is neither a range nor first nor last");
  }
  ASSIGN_OR_RETURN(const RegexEscape last, ParseItem(reader));
  if (!last.character || *last.character < *item.character || reader->LooksAt("-")) {
    return reader->Error(start, "not a range");
  }
  return CharSet::Of(*item.character, *last.character);
}

}  // namespace

bool RegexReader::Accept(std::string_view text) {
  if (!LooksAt(text)) {
    return false;
  }
  position_ += text.size();
  return true;
}

char32_t RegexReader::Next() {
  return DecodeUtf8(pattern_, &position_);
}

std::optional<int32_t> RegexReader::ReadNumber(int32_t most) {
  std::optional<int32_t> value;
  while (LooksAtDigit()) {
    value = static_cast<int32_t>(
        std::min<int64_t>(int64_t{value.value_or(0)} * 10 + (Next() - U'0'), int64_t{most} + 1));
  }
  return value;
}

absl::Status RegexReader::RefuseQuantifier(std::string_view message) const {
  return LooksAt("*") || LooksAt("+") || LooksAt("?") || LooksAt("{") ? Error(position_, message)
                                                                      : absl::OkStatus();
}

absl::Status RegexReader::Error(size_t position, std::string_view message) const {
  return absl::InvalidArgumentError(fmt::format("at byte {}: {}", position, message));
}

absl::Status CheckPatternText(std::string_view pattern) {
  constexpr size_t kMaxPatternBytes = 16384;
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        fmt::format("{} bytes, more than the limit of {}", pattern.size(), kMaxPatternBytes));
  }
  if (const size_t valid = ValidUtf8Prefix(pattern); valid != pattern.size()) {
    return absl::InvalidArgumentError(fmt::format("at byte {}: not UTF-8", valid));
  }
  return absl::OkStatus();
}

absl::StatusOr<RegexEscape> ParseEscape(RegexReader* reader) {
  const size_t start = reader->position() - 1;
  if (reader->AtEnd()) {
    return reader->Error(start, "nothing after the backslash");
  }
  const char32_t letter = reader->Next();
  if (letter == 'p' || letter == 'P') {
    return ParseProperty(reader, letter == 'P', start);
  }
  if (letter == 'x' || letter == 'u') {
    return ParseHex(reader, letter, start);
  }
  if (auto set = ShorthandSet(letter)) {
    return RegexEscape{.set = *std::move(set), .character = {}};
  }
  if (const auto control = ControlCharacter(letter)) {
    return RegexEscape{.set = {}, .character = control};
  }
  if (IsAsciiAlphanumeric(letter)) {
    return reader->Error(start, fmt::format("\\{} is not supported", static_cast<char>(letter)));
  }
  return RegexEscape{.set = {}, .character = letter};
}

absl::StatusOr<CharSet> ParseBracket(RegexReader* reader, bool ignore_case, int depth) {
  const size_t start = reader->position() - 1;
  if (depth > kMaxBracketDepth) {
    return reader->Error(start, "brackets nested too deep");
  }
  const bool negated = reader->Accept("^");
  if (reader->LooksAt("]") || reader->LooksAt(":")) {
    return reader->Error(start, "this bracket expression is not supported");
  }
  std::optional<CharSet> left;  // of the last "&&"
  std::vector<CharSet::Range> ranges;
  const auto add = [&](const CharSet& set) {
    ranges.insert(ranges.end(), set.ranges().begin(), set.ranges().end());
  };
  const auto all = [&]() {
    const CharSet right = CharSet::FromRanges(ranges);
    return left ? left->Intersection(right) : right;
  };
  while (!reader->LooksAt("]")) {
    if (reader->AtEnd()) {
      return reader->Error(start, "[ without ]");
    }
    if (reader->Accept("&&")) {
      left = all();
      ranges.clear();
    } else if (reader->Accept("[")) {
      ASSIGN_OR_RETURN(const CharSet nested, ParseBracket(reader, ignore_case, depth + 1));
      add(nested);
    } else {
      ASSIGN_OR_RETURN(const CharSet item, ParseItemOrRange(reader));
      add(item);
    }
  }
  reader->Accept("]");
  CharSet set = all();
  if (ignore_case) {
    // What Oniguruma adds to a wider set when it ignores case may be more than one character long.
    if (negated || left || (!set.ranges().empty() && set.ranges().back().last >= 0x80)) {
      return reader->Error(start, "only ASCII characters are supported where case is ignored");
    }
    set = FoldAscii(set);
  }
  return negated ? set.Complement() : set;
}

CharSet FoldAscii(const CharSet& set) {
  std::vector<CharSet::Range> ranges = set.ranges();
  for (char32_t c = 'a'; c <= 'z'; ++c) {
    const char32_t upper = c - 'a' + 'A';
    if (set.Contains(c) || set.Contains(upper)) {
      ranges.push_back({c, c});
      ranges.push_back({upper, upper});
      if (c == 'k') {
        ranges.push_back({0x212a, 0x212a});  // the Kelvin sign
      } else if (c == 's') {
        ranges.push_back({0x17f, 0x17f});  // the long s
      }
    }
  }
  return CharSet::FromRanges(std::move(ranges));
}

}  // namespace ringserve
