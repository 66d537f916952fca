#include "engine/chat/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <charconv>

#include <fmt/format.h>

#include "engine/chat/jinja_string_literal.h"
#include "engine/chat/python_text.h"

namespace ringserve::jinja {
namespace {

bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}

bool IsNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || IsDigit(c) ||
         static_cast<unsigned char>(c) >= 0x80;
}

// "\r\n" and "\r" become "\n"; one newline at the end of the template is dropped.
std::string NormalizeNewlines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      i += i + 1 < source.size() && source[i + 1] == '\n' ? 1 : 0;
    } else {
      text += source[i];
    }
  }
  if (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) {
      RETURN_IF_ERROR(ReadText());
    }
    Add(Token::Type::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }

  bool LooksAt(std::string_view what) const { return Rest().substr(0, what.size()) == what; }

  void Advance(size_t bytes) {
    const std::string_view passed = Rest().substr(0, bytes);
    line_ += static_cast<int32_t>(std::count(passed.begin(), passed.end(), '\n'));
    at_ += passed.size();
  }

  void SkipSpace() { Advance(Rest().size() - StripLeft(Rest()).size()); }

  void Add(Token::Type type, std::string_view text) {
    tokens_.push_back({.type = type, .text = std::string(text), .line = line_});
  }

  // The text up to the next tag, and the tag.
  absl::Status ReadText() {
    size_t tag = at_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos) {
        Add(Token::Type::kText, Rest());
        Advance(Rest().size());
        return absl::OkStatus();
      }
      const char next = tag + 1 < source_.size() ? source_[tag + 1] : ' ';
      if (next == '{' || next == '%' || next == '#') {
        break;
      }
    }
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    std::string_view text = Rest().substr(0, tag - at_);
    if (sign == '-') {
      text = StripRight(text);
    } else if (sign != '+' && kind != '{') {
      text = StripBlankLine(text);
    }
    if (!text.empty()) {
      Add(Token::Type::kText, text);
    }
    Advance(tag - at_ + 2 + (sign == '-' || sign == '+' ? 1 : 0));
    switch (kind) {
      case '#':
        return ReadComment();
      case '{':
        Add(Token::Type::kVariableBegin, "");
        return ReadTag(true);
      default:
        return AcceptRaw() ? ReadRaw() : ReadBlock();
    }
  }

  absl::Status ReadBlock() {
    Add(Token::Type::kBlockBegin, "");
    return ReadTag(false);
  }

  // lstrip_blocks: white space between the start of the line and a tag goes.
  std::string_view StripBlankLine(std::string_view text) const {
    const size_t newline = text.rfind('\n');
    const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
    if ((start > 0 || line_starts_) && Strip(text.substr(start)).empty()) {
      return text.substr(0, start);
    }
    return text;
  }

  // After a tag: "-" takes the white space that follows, otherwise trim_blocks one newline.
  void EndTag(char sign, bool trims) {
    const size_t begin = at_;
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && trims && LooksAt("\n")) {
      Advance(1);
    }
    line_starts_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  absl::Status ReadComment() {
    const int32_t line = line_;
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) {
      return ErrorAt(line, "a comment has no end");
    }
    const char sign = end > at_ ? source_[end - 1] : ' ';
    Advance(end + 2 - at_);
    EndTag(sign, true);
    return absl::OkStatus();
  }

  // The rest of "{% raw %}", if the tag is one.
  bool AcceptRaw() {
    std::string_view rest = StripLeft(Rest());
    if (rest.substr(0, 3) != "raw") {
      return false;
    }
    rest = StripLeft(rest.substr(3));
    const char sign = !rest.empty() && rest.front() == '-' ? '-' : ' ';
    rest.remove_prefix(sign == '-' ? 1 : 0);
    if (rest.substr(0, 2) != "%}") {
      return false;
    }
    Advance(Rest().size() - rest.size() + 2);
    EndTag(sign, false);
    return true;
  }

  absl::Status ReadRaw() {
    const int32_t line = line_;
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos;
         tag = source_.find("{%", tag + 1)) {
      std::string_view rest = std::string_view(source_).substr(tag + 2);
      const char sign = rest.empty() ? ' ' : rest.front();
      rest = StripLeft(rest.substr(sign == '-' || sign == '+' ? 1 : 0));
      if (rest.substr(0, 6) != "endraw") {
        continue;
      }
      rest = StripLeft(rest.substr(6));
      const char end_sign = rest.empty() ? ' ' : rest.front();
      rest.remove_prefix(end_sign == '-' || end_sign == '+' ? 1 : 0);
      if (rest.substr(0, 2) != "%}") {
        continue;
      }
      std::string_view text = Rest().substr(0, tag - at_);
      text = sign == '-' ? StripRight(text) : sign == '+' ? text : StripBlankLine(text);
      Add(Token::Type::kText, text);
      Advance(Rest().size() - rest.size() + 2);
      EndTag(end_sign, true);
      return absl::OkStatus();
    }
    return ErrorAt(line, "a raw block has no end");
  }

  // Tokens up to the end of a {{ }} or {% %}.
  absl::Status ReadTag(bool is_variable) {
    const int32_t line = line_;
    std::string open;  // brackets that wait for their ends
    while (true) {
      SkipSpace();
      if (Rest().empty()) {
        return ErrorAt(line, "a tag has no end");
      }
      if (open.empty() && AcceptEnd(is_variable)) {
        return absl::OkStatus();
      }
      RETURN_IF_ERROR(ReadToken(&open));
    }
  }

  bool AcceptEnd(bool is_variable) {
    const char sign = Rest().front();
    const bool has_sign = sign == '-' || (sign == '+' && !is_variable);
    if (Rest().substr(has_sign ? 1 : 0, 2) != (is_variable ? "}}" : "%}")) {
      return false;
    }
    Add(is_variable ? Token::Type::kVariableEnd : Token::Type::kBlockEnd, "");
    Advance(has_sign ? 3 : 2);
    EndTag(has_sign ? sign : ' ', !is_variable);
    return true;
  }

  absl::Status ReadToken(std::string* open) {
    const char c = Rest().front();
    if (IsDigit(c)) {
      return ReadNumber();
    }
    if (c == '\'' || c == '"') {
      return ReadString(c);
    }
    if (IsNameCharacter(c)) {
      size_t length = 1;
      while (length < Rest().size() && IsNameCharacter(Rest()[length])) {
        ++length;
      }
      Add(Token::Type::kName, Rest().substr(0, length));
      Advance(length);
      return absl::OkStatus();
    }
    return ReadOperator(open);
  }

  absl::Status ReadOperator(std::string* open) {
    static constexpr std::array<std::string_view, 6> kPairs = {"//", "**", "==", "!=", ">=", "<="};
    static constexpr std::string_view kSingles = "+-*/%~[](){}><=.:|,;";
    std::string_view text = Rest().substr(0, 2);
    if (std::find(kPairs.begin(), kPairs.end(), text) == kPairs.end()) {
      text = Rest().substr(0, 1);
      if (kSingles.find(text) == std::string_view::npos) {
        return ErrorAt(line_, fmt::format("unexpected character '{}'", SplitCodePoints(Rest())[0]));
      }
    }
    const char c = text.front();
    if (c == '(' || c == '[' || c == '{') {
      open->push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
      if (open->empty() || open->back() != c) {
        return ErrorAt(line_, fmt::format("unexpected '{}'", c));
      }
      open->pop_back();
    }
    Add(Token::Type::kOperator, text);
    Advance(text.size());
    return absl::OkStatus();
  }

  absl::Status ReadString(char quote) {
    size_t end = 1;
    while (end < Rest().size() && Rest()[end] != quote) {
      end += Rest()[end] == '\\' ? 2 : 1;
    }
    if (end >= Rest().size()) {
      return ErrorAt(line_, "a string has no end");
    }
    const absl::StatusOr<std::string> text = UnescapeString(Rest().substr(1, end - 1));
    if (!text.ok()) {
      return ErrorAt(line_, std::string(text.status().message()));
    }
    Add(Token::Type::kString, *text);
    Advance(end + 1);
    return absl::OkStatus();
  }

  // The digits (with single underscores between them) from `from` on.
  size_t DigitsEnd(size_t from, std::string_view digits) const {
    size_t end = from;
    while (end < Rest().size() && (digits.find(Rest()[end]) != std::string_view::npos ||
                                   (Rest()[end] == '_' && end > from && end + 1 < Rest().size() &&
                                    digits.find(Rest()[end + 1]) != std::string_view::npos))) {
      ++end;
    }
    return end;
  }

  absl::Status ReadNumber() {
    static constexpr std::string_view kDecimal = "0123456789";
    const char second = Rest().size() > 1 ? static_cast<char>(Rest()[1] | 0x20) : ' ';
    if (Rest().front() == '0' && (second == 'x' || second == 'o' || second == 'b')) {
      const int base = second == 'x' ? 16 : second == 'o' ? 8 : 2;
      const std::string_view digits = base == 16  ? "0123456789abcdefABCDEF"
                                      : base == 8 ? "01234567"
                                                  : "01";
      return AddInteger(2, DigitsEnd(2, digits), base);
    }
    size_t end = DigitsEnd(0, kDecimal);
    bool is_float = false;
    if (end < Rest().size() && Rest()[end] == '.' && DigitsEnd(end + 1, kDecimal) > end + 1) {
      end = DigitsEnd(end + 1, kDecimal);
      is_float = true;
    }
    if (end < Rest().size() && (Rest()[end] == 'e' || Rest()[end] == 'E')) {
      const size_t sign =
          end + 1 < Rest().size() && (Rest()[end + 1] == '+' || Rest()[end + 1] == '-');
      const size_t exponent_end = DigitsEnd(end + 1 + sign, kDecimal);
      if (exponent_end > end + 1 + sign) {
        end = exponent_end;
        is_float = true;
      }
    }
    return is_float ? AddFloat(end) : AddInteger(0, end, 10);
  }

  std::string WithoutUnderscores(size_t begin, size_t end) const {
    std::string digits(Rest().substr(begin, end - begin));
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    return digits;
  }

  absl::Status AddInteger(size_t begin, size_t end, int base) {
    const std::string digits = WithoutUnderscores(begin, end);
    int64_t value = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (result.ec != std::errc() || digits.empty()) {
      return ErrorAt(line_, "an integer does not fit in 64 bits");
    }
    Add(Token::Type::kInteger, Rest().substr(0, end));
    tokens_.back().integer = value;
    Advance(end);
    return absl::OkStatus();
  }

  absl::Status AddFloat(size_t end) {
    const std::string digits = WithoutUnderscores(0, end);
    double value = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (result.ec != std::errc()) {
      return ErrorAt(line_, fmt::format("{} is out of range", digits));
    }
    Add(Token::Type::kFloat, Rest().substr(0, end));
    tokens_.back().number = value;
    Advance(end);
    return absl::OkStatus();
  }

  const std::string source_;
  size_t at_ = 0;
  int32_t line_ = 1;
  bool line_starts_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::Status ErrorAt(int32_t line, std::string_view why) {
  return absl::InvalidArgumentError(fmt::format("line {}: {}", line, why));
}

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  return Lexer(NormalizeNewlines(source)).Run();
}

}  // namespace ringserve::jinja
