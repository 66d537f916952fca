#include "engine/text/regex_parser.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include <fmt/format.h>

#include "engine/text/regex_class.h"

namespace ringserve {
namespace {

constexpr int kMaxGroupDepth = 32;
constexpr size_t kMaxSets = 255;
constexpr int kMaxRepeats = 1000;

// ASCII pairs that one character folds to (ß, the ligatures of f and st): where case is ignored
// Oniguruma lets that character match both, PCRE2 does not.
constexpr std::array<std::string_view, 5> kMultiFolds = {"ss", "ff", "fi", "fl", "st"};

class Parser {
 public:
  explicit Parser(std::string_view pattern) : reader_(pattern) {}

  absl::StatusOr<ParsedRegex> Parse() {
    ASSIGN_OR_RETURN([[maybe_unused]] const bool nullable, ParseAlternatives(false, 0));
    if (!reader_.AtEnd()) {
      return reader_.Error(reader_.position(), "unmatched ')'");
    }
    return std::move(regex_);
  }

 private:
  enum class Repeatable { kYes, kMayBeEmpty, kAnchor };

  void Emit(std::string_view syntax) { regex_.parts.push_back({std::string(syntax), -1}); }

  absl::Status EmitSet(CharSet set) {
    auto found = std::find(regex_.sets.begin(), regex_.sets.end(), set);
    if (found == regex_.sets.end()) {
      if (regex_.sets.size() == kMaxSets) {
        return reader_.Error(reader_.position(),
                             fmt::format("more than {} distinct sets of characters", kMaxSets));
      }
      found = regex_.sets.insert(regex_.sets.end(), std::move(set));
    }
    regex_.parts.push_back({"", static_cast<int>(found - regex_.sets.begin())});
    return absl::OkStatus();
  }

  // Each of the three returns whether what it read may match nothing.
  absl::StatusOr<bool> ParseAlternatives(bool ignore_case, int depth) {
    if (depth > kMaxGroupDepth) {
      return reader_.Error(reader_.position(), "groups nested too deep");
    }
    bool nullable = false;
    do {
      bool alternative_nullable = true;
      while (!reader_.AtEnd() && !reader_.LooksAt("|") && !reader_.LooksAt(")")) {
        ASSIGN_OR_RETURN(const bool term_nullable, ParseTerm(ignore_case, depth));
        alternative_nullable = alternative_nullable && term_nullable;
      }
      nullable = nullable || alternative_nullable;
    } while (AcceptBar());
    return nullable;
  }

  bool AcceptBar() {
    if (!reader_.Accept("|")) {
      return false;
    }
    Emit("|");
    previous_ = 0;
    return true;
  }

  absl::StatusOr<bool> ParseTerm(bool ignore_case, int depth) {
    const size_t first_part = regex_.parts.size();
    const size_t start = reader_.position();
    ASSIGN_OR_RETURN(const Repeatable kind, ParseAtom(ignore_case, depth));
    return ParseQuantifier(kind, first_part, start);
  }

  absl::StatusOr<Repeatable> ParseAtom(bool ignore_case, int depth) {
    RETURN_IF_ERROR(reader_.RefuseQuantifier("a quantifier with nothing before it"));
    const size_t start = reader_.position();
    const char32_t c = reader_.Next();
    switch (c) {
      case '(':
        return ParseGroup(ignore_case, depth);
      case '[': {
        ASSIGN_OR_RETURN(CharSet set, ParseBracket(&reader_, ignore_case, 0));
        previous_ = 0;
        return YesIfOk(EmitSet(std::move(set)));
      }
      case '\\':
        return ParseBackslash(ignore_case);
      case '.':
        previous_ = 0;
        return YesIfOk(EmitSet(CharSet::Of('\n', '\n').Complement()));
      case '^':  // of any line, but not after a newline that ends the text
        return EmitAnchor("(?:\\A|(?<=@)(?!\\z))", CharSet::Of('\n', '\n'));
      case '$':
        return EmitAnchor("(?=@|\\z)", CharSet::Of('\n', '\n'));
      default:
        return EmitCharacter(c, start, ignore_case);
    }
  }

  static absl::StatusOr<Repeatable> YesIfOk(const absl::Status& status) {
    RETURN_IF_ERROR(status);
    return Repeatable::kYes;
  }

  // `syntax` with the set in the place of each '@'.
  absl::StatusOr<Repeatable> EmitAnchor(std::string_view syntax, const CharSet& set) {
    previous_ = 0;
    for (size_t at = syntax.find('@'); at != std::string_view::npos; at = syntax.find('@')) {
      Emit(syntax.substr(0, at));
      RETURN_IF_ERROR(EmitSet(set));
      syntax.remove_prefix(at + 1);
    }
    Emit(syntax);
    return Repeatable::kAnchor;
  }

  absl::StatusOr<Repeatable> EmitCharacter(char32_t c, size_t start, bool ignore_case) {
    CharSet set = CharSet::Of(c, c);
    if (ignore_case) {
      if (c >= 0x80) {
        return reader_.Error(start, "only ASCII is supported where case is ignored");
      }
      const std::string pair = {static_cast<char>(previous_ | 0x20), static_cast<char>(c | 0x20)};
      if (std::find(kMultiFolds.begin(), kMultiFolds.end(), pair) != kMultiFolds.end()) {
        return reader_.Error(start,
                             fmt::format("\"{}\" is not supported where case is ignored", pair));
      }
      set = FoldAscii(set);
    }
    previous_ = ignore_case ? c : 0;
    return YesIfOk(EmitSet(std::move(set)));
  }

  absl::StatusOr<Repeatable> ParseBackslash(bool ignore_case) {
    const size_t start = reader_.position() - 1;
    if (reader_.Accept("A")) {
      return EmitAnchor("\\A", CharSet());
    }
    if (reader_.Accept("z")) {
      return EmitAnchor("\\z", CharSet());
    }
    if (reader_.Accept("b")) {
      return EmitAnchor("(?:(?<=@)(?!@)|(?<!@)(?=@))", RegexWord());
    }
    if (reader_.Accept("B")) {
      return EmitAnchor("(?:(?<=@)(?=@)|(?<!@)(?!@))", RegexWord());
    }
    ASSIGN_OR_RETURN(RegexEscape escape, ParseEscape(&reader_));
    if (escape.character) {
      return EmitCharacter(*escape.character, start, ignore_case);
    }
    if (ignore_case) {
      return reader_.Error(start, "only ASCII is supported where case is ignored");
    }
    return YesIfOk(EmitSet(std::move(escape.set)));
  }

  absl::StatusOr<Repeatable> ParseGroup(bool ignore_case, int depth) {
    const size_t start = reader_.position() - 1;
    static constexpr std::array<std::string_view, 6> kOpenings = {
        "?:", "?=", "?!", "?>", "?<=", "?<!"};
    std::string_view opening = "?:";  // a capture: nothing here refers to one
    if (reader_.Accept("?i:")) {
      ignore_case = true;
    } else if (reader_.LooksAt("?")) {
      const auto found =
          std::find_if(kOpenings.begin(), kOpenings.end(), [&](std::string_view candidate) {
            return reader_.LooksAt(candidate);
          });
      if (found == kOpenings.end()) {
        return reader_.Error(start, "this kind of group is not supported");
      }
      opening = *found;
      reader_.Accept(opening);
    }
    Emit("(");
    Emit(opening);
    ASSIGN_OR_RETURN(const bool nullable, ParseAlternatives(ignore_case, depth + 1));
    if (!reader_.Accept(")")) {
      return reader_.Error(start, "'(' without ')'");
    }
    Emit(")");
    if (opening != "?:" && opening != "?>") {
      return Repeatable::kAnchor;
    }
    return nullable ? Repeatable::kMayBeEmpty : Repeatable::kYes;
  }

  struct Quantifier {
    std::string syntax;
    int min = 1;
    int max = 1;  // -1: any number
    bool interval = false;
  };

  // None if no quantifier is next.
  absl::StatusOr<std::optional<Quantifier>> ReadQuantifier() {
    if (reader_.Accept("*")) {
      return Quantifier{"*", 0, -1};
    }
    if (reader_.Accept("+")) {
      return Quantifier{"+", 1, -1};
    }
    if (reader_.Accept("?")) {
      return Quantifier{"?", 0, 1};
    }
    const size_t start = reader_.position();
    if (!reader_.Accept("{")) {
      return std::optional<Quantifier>();
    }
    const std::optional<int32_t> min = reader_.ReadNumber(kMaxRepeats);
    const bool comma = reader_.Accept(",");
    const std::optional<int32_t> max = comma ? reader_.ReadNumber(kMaxRepeats) : min;
    const int low = min.value_or(0);
    if (!reader_.Accept("}") || (!min && !max) || low > kMaxRepeats || max == 0 ||
        max.value_or(low) > kMaxRepeats || max.value_or(low) < low) {
      return reader_.Error(start, fmt::format("not an interval of at most {}", kMaxRepeats));
    }
    const std::string syntax =
        max ? fmt::format("{{{},{}}}", low, *max) : fmt::format("{{{},}}", low);
    return Quantifier{syntax, low, max.value_or(-1), true};
  }

  absl::StatusOr<bool> ParseQuantifier(Repeatable kind, size_t first_part, size_t start) {
    ASSIGN_OR_RETURN(const std::optional<Quantifier> quantifier, ReadQuantifier());
    if (!quantifier) {
      return kind != Repeatable::kYes;
    }
    previous_ = 0;
    if (kind == Repeatable::kAnchor) {
      return reader_.Error(start, "an anchor or lookaround with a quantifier");
    }
    if (kind == Repeatable::kMayBeEmpty && quantifier->max != 1) {
      return reader_.Error(start, "a repeat of what may match nothing is not supported");
    }
    Emit(quantifier->syntax);
    if (!quantifier->interval) {
      if (reader_.Accept("+")) {
        Emit("+");
      } else if (reader_.Accept("?")) {
        Emit("?");
      }
    } else if (reader_.Accept("+")) {
      // Not possessive in Oniguruma: one or more times the interval.
      if (quantifier->min == 0) {
        return reader_.Error(start, "a repeat of what may match nothing is not supported");
      }
      regex_.parts.insert(regex_.parts.begin() + static_cast<std::ptrdiff_t>(first_part),
                          ParsedRegex::Part{"(?:", -1});
      Emit(")+");
    } else if (reader_.LooksAt("?")) {
      if (quantifier->min == quantifier->max) {
        return reader_.Error(start, "{n}? is not supported");
      }
      reader_.Accept("?");
      Emit("?");
    }
    RETURN_IF_ERROR(reader_.RefuseQuantifier("a quantifier after a quantifier"));
    return kind != Repeatable::kYes || quantifier->min == 0;
  }

  RegexReader reader_;
  ParsedRegex regex_;
  char32_t previous_ = 0;  // the character before, where case is ignored and they may be one string
};

}  // namespace

absl::StatusOr<ParsedRegex> ParseRegex(std::string_view pattern) {
  RETURN_IF_ERROR(CheckPatternText(pattern));
  return Parser(pattern).Parse();
}

}  // namespace ringserve
