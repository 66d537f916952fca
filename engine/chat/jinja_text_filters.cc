// Filters of one value: texts and numbers.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "engine/chat/jinja_arguments.h"
#include "engine/chat/jinja_filters.h"
#include "engine/chat/jinja_json.h"
#include "engine/chat/python_case.h"
#include "engine/chat/python_format.h"
#include "engine/chat/python_text.h"

namespace ringserve::jinja {
namespace {

// Filters of texts take any value as its str().
Value ToText(Interpreter& interpreter, const Value& value) {
  return value.is_string() ? value : interpreter.String(Str(value));
}

absl::Status RequireText(std::string_view filter, const Value& input) {
  return input.is_string()
             ? absl::OkStatus()
             : TypeError(fmt::format("{}: a str is required, not {}", filter, input.type_name()));
}

absl::Status RequireDefined(const Value& input) {
  return input.is_undefined() ? absl::InvalidArgumentError(input.why_undefined())
                              : absl::OkStatus();
}

template <auto kConvert>
absl::StatusOr<Value> Convert(Interpreter& interpreter,
                              const Value& input,
                              const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("the filter", arguments, {}).status());
  return interpreter.String(kConvert(ToText(interpreter, input).bytes()));
}

// Jinja's own: a capital after the start, white space, '-' and opening brackets.
std::string Title(std::string_view text) {
  std::string out;
  std::string word;
  const auto flush = [&out, &word] {
    const size_t first = ByteOffset(word, 1);
    out += ToUpper(std::string_view(word).substr(0, first)) +
           ToLower(std::string_view(word).substr(first));
    word.clear();
  };
  for (const std::string_view character : SplitCodePoints(text)) {
    const bool is_break = StripLeft(character).empty() ||
                          (character.size() == 1 &&
                           std::string_view("-({[<").find(character) != std::string_view::npos);
    if (is_break) {
      flush();
      out += character;
    } else {
      word += character;
    }
  }
  flush();
  return out;
}

std::string Escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string UrlEncode(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool is_safe = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         (c >= '0' && c <= '9') ||
                         std::string_view("_.-~/").find(c) != std::string_view::npos;
    out += is_safe ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

absl::StatusOr<Value> Trim(Interpreter& interpreter,
                           const Value& input,
                           const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound, BoundArguments::Bind("trim", arguments, {"chars"}));
  std::optional<std::string_view> characters;
  if (bound.NotNone(0)) {
    ASSIGN_OR_RETURN(characters, bound.String(0, ""));
  }
  const Value text = ToText(interpreter, input);
  return interpreter.String(std::string(Strip(text.bytes(), characters)));
}

absl::StatusOr<Value> ReplaceText(Interpreter& interpreter,
                                  const Value& input,
                                  const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("replace", arguments, {"old", "new", "count"}, 2));
  Arguments call;
  call.positional = {ToText(interpreter, bound[0]), ToText(interpreter, bound[1])};
  if (const std::optional<Value> count = bound.NotNone(2)) {
    call.positional.push_back(*count);
  }
  ASSIGN_OR_RETURN(const Value method,
                   interpreter.Attribute(ToText(interpreter, input), "replace"));
  return interpreter.Call(method, call);
}

absl::StatusOr<Value> Indent(Interpreter& interpreter,
                             const Value& input,
                             const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("indent", arguments, {"width", "first", "blank"}));
  RETURN_IF_ERROR(RequireText("indent", input));
  std::string indention(4, ' ');
  if (bound.Has(0) && bound[0].is_string()) {
    indention = bound[0].bytes();
  } else if (bound.Has(0)) {
    ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 4));
    RETURN_IF_ERROR(interpreter.budget()->CheckSize(static_cast<double>(width)));
    indention.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const std::string text = input.bytes() + "\n";
  const std::vector<std::string_view> lines = SplitLines(text, false);
  RETURN_IF_ERROR(interpreter.budget()->CheckSize(static_cast<double>(lines.size()) *
                                                  static_cast<double>(indention.size())));
  std::string out = bound.Bool(1, false) ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) {
      out += '\n';
      out += bound.Bool(2, false) || !lines[i].empty() ? indention : "";
    }
    out += lines[i];
  }
  return interpreter.String(std::move(out));
}

absl::StatusOr<Value> Truncate(Interpreter& interpreter,
                               const Value& input,
                               const Arguments& arguments) {
  ASSIGN_OR_RETURN(
      const BoundArguments bound,
      BoundArguments::Bind("truncate", arguments, {"length", "killwords", "end", "leeway"}));
  ASSIGN_OR_RETURN(const int64_t length, bound.Int(0, 255));
  ASSIGN_OR_RETURN(const std::string_view end, bound.String(2, "..."));
  int64_t leeway = 5;
  if (bound.NotNone(3)) {
    ASSIGN_OR_RETURN(leeway, bound.Int(3, 5));
  }
  const auto end_length = static_cast<int64_t>(CountCodePoints(end));
  if (length < end_length || leeway < 0) {
    return TypeError(
        fmt::format("truncate(): length {} is not in [{}, ...] or leeway {} is negative",
                    length,
                    end_length,
                    leeway));
  }
  if (input.Length().value_or(std::numeric_limits<int64_t>::max()) <= length + leeway) {
    return input;  // of any type
  }
  RETURN_IF_ERROR(RequireText("truncate", input));
  std::string_view kept = input.bytes();
  kept = kept.substr(0, ByteOffset(kept, static_cast<size_t>(length - end_length)));
  if (!bound.Bool(1, false)) {
    kept = SplitFromRight(kept, " ", 1).front();
  }
  return interpreter.String(std::string(kept) + std::string(end));
}

absl::StatusOr<Value> Center(Interpreter& interpreter,
                             const Value& input,
                             const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("center", arguments, {"width"}));
  ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 80));
  ASSIGN_OR_RETURN(const Value method, interpreter.Attribute(ToText(interpreter, input), "center"));
  return interpreter.Call(method, {.positional = {Value::Int(width)}, .named = {}});
}

absl::StatusOr<Value> Format(Interpreter& interpreter,
                             const Value& input,
                             const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    return TypeError("format: positional or named arguments, not both");
  }
  Dict named;
  for (const auto& [name, value] : arguments.named) {
    named.SetString(name, value);
  }
  ASSIGN_OR_RETURN(std::string text,
                   PercentFormat(interpreter.budget(),
                                 ToText(interpreter, input).bytes(),
                                 arguments.named.empty() ? Value::MakeTuple(arguments.positional)
                                                         : Value::MakeDict(std::move(named))));
  return interpreter.String(std::move(text));
}

absl::StatusOr<Value> WordCount(Interpreter& interpreter,
                                const Value& input,
                                const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("wordcount", arguments, {}).status());
  int64_t words = 0;
  bool in_word = false;
  const Value text = ToText(interpreter, input);
  for (const std::string_view character : SplitCodePoints(text.bytes())) {
    const bool is_word = character == "_" || IsAlnum(character);
    words += is_word && !in_word ? 1 : 0;
    in_word = is_word;
  }
  return Value::Int(words);
}

absl::StatusOr<Value> Default(Interpreter& interpreter,
                              const Value& input,
                              const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("default", arguments, {"default_value", "boolean"}));
  const bool replaces = input.is_undefined() || (bound.Bool(1, false) && !input.IsTrue());
  return !replaces ? input : bound.Has(0) ? bound[0] : interpreter.String("");
}

absl::StatusOr<Value> ToStringFilter(Interpreter& interpreter,
                                     const Value& input,
                                     const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("string", arguments, {}).status());
  return ToText(interpreter, input);
}

absl::StatusOr<Value> Tojson(Interpreter& interpreter,
                             const Value& input,
                             const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind(
                       "tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ensure_ascii = bound.Bool(0, false);
  style.sort_keys = bound.Bool(3, false);
  if (const std::optional<Value> indent = bound.NotNone(1)) {
    if (indent->is_string()) {
      style.indent = indent->bytes();
    } else {
      ASSIGN_OR_RETURN(const int64_t width, bound.Int(1, 0));
      if (width > 1024) {
        return TypeError("tojson(): 'indent' is more than 1024");
      }
      style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
    style.item_separator = ",";
  }
  if (const std::optional<Value> separators = bound.NotNone(2)) {
    ASSIGN_OR_RETURN(const List pair, interpreter.Elements(*separators));
    if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
      return TypeError("tojson(): 'separators' must be two strings");
    }
    style.item_separator = pair[0].bytes();
    style.key_separator = pair[1].bytes();
  }
  ASSIGN_OR_RETURN(std::string text, ToJson(input, style, interpreter.budget()));
  return interpreter.String(std::move(text));
}

absl::StatusOr<Value> Abs(Interpreter& /*interpreter*/,
                          const Value& input,
                          const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("abs", arguments, {}).status());
  if (!input.is_number()) {
    return TypeError(fmt::format("bad operand type for abs(): '{}'", input.type_name()));
  }
  return input.is_float() ? Value::Float(std::abs(input.AsDouble()))
                          : Value::Int(std::abs(input.AsInt()));
}

// int(text, base), as far as it fits 64 bits.
std::optional<int64_t> ParseInt(std::string_view text, int64_t base) {
  std::string digits(Strip(text));
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  const bool negative = !digits.empty() && digits.front() == '-';
  if (negative || (!digits.empty() && digits.front() == '+')) {
    digits.erase(0, 1);
  }
  const std::string prefix = ToLower(digits.substr(0, 2));
  if ((base == 16 && prefix == "0x") || (base == 8 && prefix == "0o") ||
      (base == 2 && prefix == "0b")) {
    digits.erase(0, 2);
  }
  int64_t value = 0;
  const char* const end = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), end, value, static_cast<int>(base));
  if (digits.empty() || digits.front() == '-' || result.ec != std::errc() || result.ptr != end) {
    return std::nullopt;
  }
  return negative ? -value : value;
}

std::optional<double> ParseFloat(std::string_view text) {
  std::string digits(Strip(text));
  if (digits.empty() ||
      digits.find_first_not_of("0123456789+-.eE_infatyINFATY") != std::string::npos) {
    return std::nullopt;
  }
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  char* end = nullptr;
  const double value = std::strtod(digits.c_str(), &end);
  return end == digits.c_str() + digits.size() ? std::optional(value) : std::nullopt;
}

std::optional<int64_t> FloatToInt(std::optional<double> value) {
  return value && std::isfinite(*value) && std::abs(*value) < 9.2e18
             ? std::optional(static_cast<int64_t>(*value))
             : std::nullopt;
}

absl::StatusOr<Value> ToInt(Interpreter& /*interpreter*/,
                            const Value& input,
                            const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("int", arguments, {"default", "base"}));
  ASSIGN_OR_RETURN(const int64_t base, bound.Int(1, 10));
  if (base < 2 || base > 36) {
    return TypeError(fmt::format("int(): base {} is not in [2, 36]", base));
  }
  RETURN_IF_ERROR(RequireDefined(input));
  std::optional<int64_t> value;
  if (input.is_string()) {
    value = ParseInt(input.bytes(), base);
    if (!value) {
      value = FloatToInt(ParseFloat(input.bytes()));
    }
  } else if (input.is_integral()) {
    value = input.AsInt();
  } else if (input.is_float()) {
    value = FloatToInt(input.AsDouble());
  }
  return value ? Value::Int(*value) : bound.Has(0) ? bound[0] : Value::Int(0);
}

absl::StatusOr<Value> ToFloat(Interpreter& /*interpreter*/,
                              const Value& input,
                              const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("float", arguments, {"default"}));
  RETURN_IF_ERROR(RequireDefined(input));
  if (input.is_number()) {
    return Value::Float(input.AsDouble());
  }
  if (input.is_string()) {
    if (const std::optional<double> value = ParseFloat(input.bytes())) {
      return Value::Float(*value);
    }
  }
  return bound.Has(0) ? bound[0] : Value::Float(0);
}

absl::StatusOr<Value> Round(Interpreter& /*interpreter*/,
                            const Value& input,
                            const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("round", arguments, {"precision", "method"}));
  ASSIGN_OR_RETURN(const int64_t precision, bound.Int(0, 0));
  ASSIGN_OR_RETURN(const std::string_view method, bound.String(1, "common"));
  if (!input.is_number()) {
    return TypeError(fmt::format("round(): a number is required, not {}", input.type_name()));
  }
  if (method == "common") {
    return input.is_integral() && precision >= 0
               ? Value::Int(input.AsInt())
               : Value::Float(RoundDecimals(input.AsDouble(), precision));
  }
  if (method != "ceil" && method != "floor") {
    return TypeError("round(): 'method' must be common, ceil or floor");
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = input.AsDouble() * scale;
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

absl::StatusOr<Value> GetAttribute(Interpreter& interpreter,
                                   const Value& input,
                                   const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("attr", arguments, {"name"}, 1));
  ASSIGN_OR_RETURN(const std::string_view name, bound.String(0, ""));
  return input.is_dict()
             ? Value::Undefined(fmt::format("'dict object' has no attribute '{}'", name))
             : interpreter.Attribute(input, name);
}

constexpr std::array kFilters = {
    NamedFilter{"abs", Abs},
    NamedFilter{"attr", GetAttribute},
    NamedFilter{"capitalize", Convert<Capitalize>},
    NamedFilter{"center", Center},
    NamedFilter{"d", Default},
    NamedFilter{"default", Default},
    NamedFilter{"e", Convert<Escape>},
    NamedFilter{"escape", Convert<Escape>},
    NamedFilter{"float", ToFloat},
    NamedFilter{"forceescape", Convert<Escape>},
    NamedFilter{"format", Format},
    NamedFilter{"indent", Indent},
    NamedFilter{"int", ToInt},
    NamedFilter{"lower", Convert<ToLower>},
    NamedFilter{"replace", ReplaceText},
    NamedFilter{"round", Round},
    NamedFilter{"safe", ToStringFilter},
    NamedFilter{"string", ToStringFilter},
    NamedFilter{"title", Convert<Title>},
    NamedFilter{"tojson", Tojson},
    NamedFilter{"trim", Trim},
    NamedFilter{"truncate", Truncate},
    NamedFilter{"upper", Convert<ToUpper>},
    NamedFilter{"urlencode", Convert<UrlEncode>},
    NamedFilter{"wordcount", WordCount},
};

}  // namespace

std::span<const NamedFilter> TextFilters() {
  return kFilters;
}

}  // namespace ringserve::jinja
