#include "engine/constraint/pattern_parser.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "engine/text/regex_class.h"

namespace ringserve {
namespace {

constexpr int kMaxGroupDepth = 64;
constexpr int32_t kMaxRepeats = 10'000;

using Kind = PatternNode::Kind;

CharSet AsciiDigits() {
  return CharSet::Of('0', '9');
}

CharSet AsciiWord() {
  return CharSet::FromRanges({{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}});
}

CharSet AsciiSpace() {
  return CharSet::FromRanges({{'\t', '\r'}, {' ', ' '}});
}

// What any reading of the classes counts.
const CharSet& AnyDigits() {
  static const CharSet set = GeneralCategory("N")->Union(AsciiDigits());
  return set;
}

const CharSet& AnyWord() {
  static const CharSet set =
      RegexWord().Union(GeneralCategory("N")->Union(GeneralCategory("Pc").value()));
  return set;
}

const CharSet& AnySpace() {
  static const CharSet set =
      WhiteSpace().Union(CharSet::FromRanges({{0x1c, 0x1f}, {0x180e, 0x180e}, {0xfeff, 0xfeff}}));
  return set;
}

std::optional<CharSet> ClassOf(char32_t letter) {
  switch (letter) {
    case 'd':
      return AsciiDigits();
    case 'D':
      return AnyDigits().Complement();
    case 'w':
      return AsciiWord();
    case 'W':
      return AnyWord().Complement();
    case 's':
      return AsciiSpace();
    case 'S':
      return AnySpace().Complement();
    default:
      return std::nullopt;
  }
}

// In a negated bracket a class takes away whatever any reading counts.
CharSet ClassToExclude(char32_t letter) {
  switch (letter) {
    case 'd':
      return AnyDigits();
    case 'w':
      return AnyWord();
    case 's':
      return AnySpace();
    case 'D':
      return AsciiDigits().Complement();
    case 'W':
      return AsciiWord().Complement();
    default:
      return AsciiSpace().Complement();
  }
}

class Parser {
 public:
  Parser(std::string_view pattern, Budget* budget) : reader_(pattern), budget_(budget) {}

  absl::StatusOr<PatternTree> Parse() {
    ASSIGN_OR_RETURN(tree_.root, ParseAlternatives(0));
    if (!reader_.AtEnd()) {
      return reader_.Error(reader_.position(), "unmatched ')'");
    }
    return std::move(tree_);
  }

 private:
  int32_t Add(PatternNode node) {
    tree_.nodes.push_back(std::move(node));
    return static_cast<int32_t>(tree_.nodes.size()) - 1;
  }

  absl::StatusOr<int32_t> AddSet(CharSet set) {
    RETURN_IF_ERROR(SpendOn(set));
    return Add({.kind = Kind::kSet, .set = std::move(set)});
  }

  // Sets are copied, sorted and cut into bytes.
  absl::Status SpendOn(const CharSet& set) {
    return budget_->Spend(4 * static_cast<int64_t>(set.ranges().size()));
  }

  absl::StatusOr<int32_t> ParseAlternatives(int depth) {
    if (depth > kMaxGroupDepth) {
      return reader_.Error(reader_.position(), "groups nested too deep");
    }
    PatternNode alternatives{.kind = Kind::kAlternate};
    do {
      PatternNode terms{.kind = Kind::kConcat};
      while (!reader_.AtEnd() && !reader_.LooksAt("|") && !reader_.LooksAt(")")) {
        ASSIGN_OR_RETURN(const int32_t term, ParseTerm(depth));
        terms.children.push_back(term);
      }
      alternatives.children.push_back(Add(std::move(terms)));
    } while (reader_.Accept("|"));
    return alternatives.children.size() == 1 ? alternatives.children[0]
                                             : Add(std::move(alternatives));
  }

  absl::StatusOr<int32_t> ParseTerm(int depth) {
    ASSIGN_OR_RETURN(const int32_t atom, ParseAtom(depth));
    return ParseQuantifier(atom);
  }

  absl::StatusOr<int32_t> ParseAtom(int depth) {
    RETURN_IF_ERROR(reader_.RefuseQuantifier("a quantifier with nothing before it"));
    const size_t start = reader_.position();
    const char32_t c = reader_.Next();
    switch (c) {
      case '(':
        return ParseGroup(start, depth);
      case '[': {
        ASSIGN_OR_RETURN(CharSet set, ParseClass(start));
        return AddSet(std::move(set));
      }
      case '\\':
        return ParseBackslash(start);
      case '.':  // of ECMA's line ends Python's dot takes all but \n
        return AddSet(
            CharSet::FromRanges({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}).Complement());
      case '^':
        return Add({.kind = Kind::kBegin});
      case '$':
        return Add({.kind = Kind::kEnd});
      default:
        return AddSet(CharSet::Of(c, c));
    }
  }

  absl::StatusOr<int32_t> ParseGroup(size_t start, int depth) {
    if (reader_.Accept("?:")) {
      // a group without a number
    } else if (reader_.LooksAt("?=") || reader_.LooksAt("?!") || reader_.LooksAt("?<=") ||
               reader_.LooksAt("?<!")) {
      return reader_.Error(start, "lookaround is not supported");
    } else if (reader_.Accept("?<") || reader_.Accept("?P<")) {
      while (!reader_.AtEnd() && !reader_.LooksAt(">")) {
        reader_.Next();
      }
      if (!reader_.Accept(">")) {
        return reader_.Error(start, "the name of the group has no end");
      }
    } else if (reader_.LooksAt("?")) {
      return reader_.Error(start, "this kind of group is not supported");
    }
    ASSIGN_OR_RETURN(const int32_t inside, ParseAlternatives(depth + 1));
    if (!reader_.Accept(")")) {
      return reader_.Error(start, "'(' without ')'");
    }
    return inside;
  }

  absl::StatusOr<int32_t> ParseBackslash(size_t start) {
    if (reader_.LooksAt("b") || reader_.LooksAt("B")) {
      return reader_.Error(start, "word boundaries are not supported");
    }
    if (reader_.Accept("A")) {
      return Add({.kind = Kind::kBegin});
    }
    if (reader_.Accept("Z") || reader_.Accept("z")) {
      return Add({.kind = Kind::kEnd});
    }
    ASSIGN_OR_RETURN(const Item item, ParseEscaped(/*negated=*/false));
    return AddSet(item.set);
  }

  struct Item {
    CharSet set;
    std::optional<char32_t> character;
  };

  // After the backslash.
  absl::StatusOr<Item> ParseEscaped(bool negated) {
    const size_t start = reader_.position() - 1;
    for (const char32_t letter : U"dDwWsS") {
      const char text[] = {static_cast<char>(letter), 0};
      if (letter != 0 && reader_.Accept(text)) {
        return Item{negated ? ClassToExclude(letter) : *ClassOf(letter), std::nullopt};
      }
    }
    if (reader_.LooksAt("h") || reader_.LooksAt("H") || reader_.LooksAt("a") ||
        reader_.LooksAt("e")) {
      return reader_.Error(start, "this escape is not supported");
    }
    ASSIGN_OR_RETURN(RegexEscape escape, ParseEscape(&reader_));
    if (escape.character) {
      return Item{CharSet::Of(*escape.character, *escape.character), escape.character};
    }
    return Item{std::move(escape.set), std::nullopt};
  }

  absl::StatusOr<Item> ParseItem(bool negated) {
    if (reader_.Accept("\\")) {
      if (reader_.Accept("b")) {
        return Item{CharSet::Of(0x08, 0x08), U'\b'};
      }
      return ParseEscaped(negated);
    }
    const char32_t c = reader_.Next();
    return Item{CharSet::Of(c, c), c};
  }

  // After the '['.
  absl::StatusOr<CharSet> ParseClass(size_t start) {
    const bool negated = reader_.Accept("^");
    std::vector<CharSet::Range> ranges;
    if (reader_.LooksAt("]")) {
      return reader_.Error(start, "an empty bracket expression is not supported");
    }
    while (!reader_.LooksAt("]")) {
      if (reader_.AtEnd()) {
        return reader_.Error(start, "[ without ]");
      }
      const size_t at = reader_.position();
      if (reader_.LooksAt("[:") || reader_.LooksAt("[.") || reader_.LooksAt("[=") ||
          reader_.LooksAt("&&") || reader_.LooksAt("--") || reader_.LooksAt("||")) {
        return reader_.Error(at, "this bracket expression is not supported");
      }
      ASSIGN_OR_RETURN(const Item first, ParseItem(negated));
      RETURN_IF_ERROR(SpendOn(first.set));
      if (!reader_.LooksAt("-") || reader_.LooksAt("-]")) {
        ranges.insert(ranges.end(), first.set.ranges().begin(), first.set.ranges().end());
        continue;
      }
      reader_.Accept("-");
      if (reader_.AtEnd()) {
        return reader_.Error(start, "[ without ]");
      }
      ASSIGN_OR_RETURN(const Item last, ParseItem(negated));
      if (!first.character || !last.character || *last.character < *first.character) {
        return reader_.Error(at, "not a range");
      }
      ranges.push_back({*first.character, *last.character});
    }
    reader_.Accept("]");
    CharSet set = CharSet::FromRanges(std::move(ranges));
    return negated ? set.Complement() : set;
  }

  absl::StatusOr<int32_t> ParseQuantifier(int32_t atom) {
    const size_t start = reader_.position();
    PatternNode repeat{.kind = Kind::kRepeat, .children = {atom}};
    if (reader_.Accept("*")) {
      repeat.max = -1;
    } else if (reader_.Accept("+")) {
      repeat.min = 1;
      repeat.max = -1;
    } else if (reader_.Accept("?")) {
      repeat.max = 1;
    } else if (reader_.Accept("{")) {
      const std::optional<int32_t> min = reader_.ReadNumber(kMaxRepeats);
      const bool comma = reader_.Accept(",");
      const std::optional<int32_t> max = comma ? reader_.ReadNumber(kMaxRepeats) : min;
      if (!min || !reader_.Accept("}") || *min > kMaxRepeats || max.value_or(*min) > kMaxRepeats ||
          max.value_or(*min) < *min) {
        return reader_.Error(start, fmt::format("not an interval of at most {}", kMaxRepeats));
      }
      repeat.min = *min;
      repeat.max = max.value_or(-1);
    } else {
      return atom;
    }
    const Kind kind = tree_.nodes[static_cast<size_t>(atom)].kind;
    if (kind == Kind::kBegin || kind == Kind::kEnd) {
      return reader_.Error(start, "an anchor with a quantifier");
    }
    if (reader_.Accept("+")) {
      return reader_.Error(start, "possessive quantifiers are not supported");
    }
    reader_.Accept("?");  // lazy: the same texts
    RETURN_IF_ERROR(reader_.RefuseQuantifier("a quantifier after a quantifier"));
    return Add(std::move(repeat));
  }

  RegexReader reader_;
  Budget* const budget_;
  PatternTree tree_;
};

}  // namespace

absl::StatusOr<PatternTree> ParsePattern(std::string_view pattern, Budget* budget) {
  RETURN_IF_ERROR(CheckPatternText(pattern));
  return Parser(pattern, budget).Parse();
}

}  // namespace ringserve
