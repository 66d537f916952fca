#include "engine/chat/python_format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>

#include "engine/chat/jinja_arguments.h"
#include "engine/chat/python_text.h"
#include "engine/text/utf8.h"

namespace ringserve::jinja {
namespace {

constexpr int kMaxPrecision = 300;

struct Spec {
  std::string fill = " ";
  char align = 0;  // < > ^ =
  char sign = '-';
  bool alternate = false;
  bool comma = false;
  int64_t width = 0;
  int precision = -1;
  char type = 0;
};

// Digits at the front of `text`, taken off it; -1 if there are none or too many.
int64_t TakeNumber(std::string_view* text) {
  int64_t value = -1;
  const auto result = std::from_chars(text->data(), text->data() + text->size(), value);
  if (result.ec != std::errc() || text->front() == '-') {
    return -1;
  }
  text->remove_prefix(static_cast<size_t>(result.ptr - text->data()));
  return value;
}

bool Take(std::string_view* text, char c) {
  const bool is_there = !text->empty() && text->front() == c;
  text->remove_prefix(is_there ? 1 : 0);
  return is_there;
}

std::string Pad(std::string text, const Spec& spec, char default_align) {
  const auto length = static_cast<int64_t>(CountCodePoints(text));
  const int64_t padding = std::max<int64_t>(spec.width - length, 0);
  const char align = spec.align != 0 ? spec.align : default_align;
  const int64_t left = align == '<' ? 0 : align == '^' ? padding / 2 : padding;
  std::string before;
  std::string after;
  for (int64_t i = 0; i < padding; ++i) {
    (i < left ? before : after) += spec.fill;
  }
  if (align == '=') {  // between sign and digits
    const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+' || text[0] == ' ');
    return text.insert(sign, before);
  }
  return before + text + after;
}

std::string GroupThousands(std::string digits) {
  const size_t end = std::min(digits.find('.'), digits.find('e'));
  const size_t begin = !digits.empty() && digits[0] == '-' ? 1 : 0;
  for (size_t at = std::min(end, digits.size()); at > begin + 3;) {
    at -= 3;
    digits.insert(at, ",");
  }
  return digits;
}

std::string FormatFloat(double value, const Spec& spec) {
  const char type = spec.type == 0 ? 'g' : spec.type == '%' ? 'f' : spec.type;
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  const double scaled = spec.type == '%' ? value * 100 : value;
  const std::string format = fmt::format("%{}.{}{}", spec.alternate ? "#" : "", precision, type);
  const int size = std::snprintf(nullptr, 0, format.c_str(), scaled);
  std::string text(static_cast<size_t>(size) + 1, '\0');
  std::snprintf(text.data(), text.size(), format.c_str(), scaled);
  text.pop_back();
  return spec.type == '%' ? text + "%" : text;
}

std::string FormatInt(int64_t value, const Spec& spec) {
  const uint64_t magnitude =
      value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  const std::string sign = value < 0 ? "-" : "";
  switch (spec.type) {
    case 'x':
      return sign + (spec.alternate ? "0x" : "") + fmt::format("{:x}", magnitude);
    case 'X':
      return sign + (spec.alternate ? "0X" : "") + fmt::format("{:X}", magnitude);
    case 'o':
      return sign + (spec.alternate ? "0o" : "") + fmt::format("{:o}", magnitude);
    case 'b':
      return sign + (spec.alternate ? "0b" : "") + fmt::format("{:b}", magnitude);
    default:
      return sign + fmt::format("{}", magnitude);
  }
}

std::string WithSign(std::string text, char sign) {
  return sign != '-' && (text.empty() || text.front() != '-') ? sign + text : text;
}

absl::StatusOr<std::string> FormatNumber(const Value& value, const Spec& spec) {
  const std::string_view int_types = "dnxXobi";
  const std::string_view float_types = "eEfFgG%";
  const bool wants_int =
      spec.type == 0 ? value.is_integral() : int_types.find(spec.type) != std::string_view::npos;
  if ((wants_int && !value.is_integral()) ||
      (!wants_int && spec.type != 0 && float_types.find(spec.type) == std::string_view::npos)) {
    return TypeError(fmt::format(
        "format code '{}' does not fit an object of type '{}'", spec.type, value.type_name()));
  }
  std::string text = wants_int                              ? FormatInt(value.AsInt(), spec)
                     : spec.type == 0 && spec.precision < 0 ? FloatRepr(value.AsDouble())
                                                            : FormatFloat(value.AsDouble(), spec);
  if (spec.comma) {
    text = GroupThousands(std::move(text));
  }
  return Pad(WithSign(std::move(text), spec.sign), spec, '>');
}

absl::StatusOr<std::string> FormatText(std::string text, const Spec& spec) {
  if (spec.type != 0 && spec.type != 's') {
    return TypeError(fmt::format("format code '{}' does not fit a str", spec.type));
  }
  if (spec.precision >= 0) {
    text.resize(ByteOffset(text, static_cast<size_t>(spec.precision)));
  }
  return Pad(std::move(text), spec, '<');
}

absl::StatusOr<Spec> ParseSpec(std::string_view text, Budget* budget) {
  Spec spec;
  const std::string whole(text);
  const size_t first = text.empty() ? 0 : Utf8Length(text.front());
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (text.size() > first && first > 0 && is_align(text[first])) {
    spec.fill = std::string(text.substr(0, first));
    spec.align = text[first];
    text.remove_prefix(first + 1);
  } else if (!text.empty() && is_align(text.front())) {
    spec.align = text.front();
    text.remove_prefix(1);
  }
  for (const char sign : {'+', '-', ' '}) {
    if (Take(&text, sign)) {
      spec.sign = sign;
      break;
    }
  }
  spec.alternate = Take(&text, '#');
  if (Take(&text, '0') && spec.align == 0) {
    spec.fill = "0";
    spec.align = '=';
  }
  spec.width = std::max<int64_t>(TakeNumber(&text), 0);
  RETURN_IF_ERROR(budget->CheckSize(static_cast<double>(spec.width) * 4));
  spec.comma = Take(&text, ',');
  if (Take(&text, '.')) {
    const int64_t precision = TakeNumber(&text);
    if (precision < 0 || precision > kMaxPrecision) {
      return TypeError(fmt::format("a precision is not in [0, {}]", kMaxPrecision));
    }
    spec.precision = static_cast<int>(precision);
  }
  if (!text.empty()) {
    spec.type = text.front();
    text.remove_prefix(1);
  }
  if (!text.empty()) {
    return TypeError(fmt::format("'{}' is not a format", whole));
  }
  return spec;
}

// One %-conversion's flags, width, precision and type.
absl::StatusOr<Spec> TakePercentSpec(std::string_view* text, Budget* budget) {
  Spec spec;
  bool zero = false;
  while (!text->empty() &&
         std::string_view("-+ #0").find(text->front()) != std::string_view::npos) {
    const char flag = text->front();
    text->remove_prefix(1);
    if (flag == '-') {
      spec.align = '<';
    } else if (flag == '+' || (flag == ' ' && spec.sign != '+')) {
      spec.sign = flag;
    } else if (flag == '#') {
      spec.alternate = true;
    } else if (flag == '0') {
      zero = true;
    }
  }
  spec.width = std::max<int64_t>(TakeNumber(text), 0);
  RETURN_IF_ERROR(budget->CheckSize(static_cast<double>(spec.width)));
  if (Take(text, '.')) {
    spec.precision = static_cast<int>(std::clamp<int64_t>(TakeNumber(text), 0, kMaxPrecision));
  }
  if (text->empty()) {
    return TypeError("incomplete format");
  }
  spec.type = text->front();
  text->remove_prefix(1);
  if (zero && spec.align == 0 && std::string_view("sr").find(spec.type) == std::string_view::npos) {
    spec.fill = "0";
    spec.align = '=';
  }
  return spec;
}

absl::StatusOr<std::string> ConvertPercent(Spec spec, const Value& value) {
  const char default_align = '>';
  switch (spec.type) {
    case 's':
    case 'r': {
      spec.align = spec.align == 0 ? default_align : spec.align;
      std::string text = spec.type == 's' ? Str(value) : Repr(value);
      spec.type = 0;
      return FormatText(std::move(text), spec);
    }
    case 'c':
      spec.type = 0;
      if (!value.is_string() || *value.Length() != 1) {
        return TypeError("%c requires one character");
      }
      spec.align = spec.align == 0 ? default_align : spec.align;
      return FormatText(value.bytes(), spec);
    case 'd':
    case 'i':
    case 'u':
      spec.type = 'd';
      if (value.is_float() && std::abs(value.AsDouble()) < 9e18) {
        return FormatNumber(Value::Int(static_cast<int64_t>(value.AsDouble())), spec);
      }
      break;
    case 'x':
    case 'X':
    case 'o':
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
      break;
    default:
      return TypeError(fmt::format("unsupported format character '{}'", spec.type));
  }
  if (!value.is_number()) {
    return TypeError(
        fmt::format("%{} format: a number is required, not {}", spec.type, value.type_name()));
  }
  return FormatNumber(value, spec);
}

class BraceFormatter {
 public:
  BraceFormatter(Interpreter& interpreter, const Arguments& arguments)
      : interpreter_(interpreter), arguments_(arguments) {}

  absl::StatusOr<std::string> Run(std::string_view format) {
    std::string out;
    while (!format.empty()) {
      const char c = format.front();
      format.remove_prefix(1);
      if ((c != '{' && c != '}') || Take(&format, c)) {
        out += c;
      } else if (c == '}') {
        return TypeError("format(): a single '}'");
      } else {
        const size_t end = format.find('}');
        if (end == std::string_view::npos ||
            format.substr(0, end).find('{') != std::string_view::npos) {
          return TypeError("format(): a field has no end or fields inside");
        }
        ASSIGN_OR_RETURN(const std::string text, FormatField(format.substr(0, end)));
        out += text;
        format.remove_prefix(end + 1);
      }
      RETURN_IF_ERROR(interpreter_.budget()->CheckSize(static_cast<double>(out.size())));
    }
    return out;
  }

 private:
  absl::StatusOr<std::string> FormatField(std::string_view field) {
    const size_t colon = std::min(field.find(':'), field.size());
    std::string_view name = field.substr(0, colon);
    char conversion = 0;
    if (name.size() >= 2 && name[name.size() - 2] == '!') {
      conversion = name.back();
      name.remove_suffix(2);
    }
    ASSIGN_OR_RETURN(const Value value, FindField(name));
    ASSIGN_OR_RETURN(
        const Spec spec,
        ParseSpec(field.substr(std::min(colon + 1, field.size())), interpreter_.budget()));
    if (conversion == 'r') {
      return FormatText(Repr(value), spec);
    }
    if (conversion != 0 && conversion != 's') {
      return TypeError(fmt::format("format(): unknown conversion '{}'", conversion));
    }
    if (value.is_bool() && spec.type == 0) {
      return FormatText(Str(value), spec);
    }
    return conversion == 0 && value.is_number() ? FormatNumber(value, spec)
                                                : FormatText(Str(value), spec);
  }

  absl::StatusOr<Value> FindField(std::string_view name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    ASSIGN_OR_RETURN(Value value, FindArgument(name.substr(0, end)));
    name.remove_prefix(end);
    while (!name.empty()) {
      if (Take(&name, '.')) {
        const size_t stop = std::min(name.find_first_of(".["), name.size());
        ASSIGN_OR_RETURN(value, interpreter_.Attribute(value, name.substr(0, stop)));
        name.remove_prefix(stop);
        continue;
      }
      name.remove_prefix(1);
      const size_t stop = name.find(']');
      if (stop == std::string_view::npos) {
        return TypeError("format(): missing ']'");
      }
      std::string_view key = name.substr(0, stop);
      std::string_view digits = key;
      const int64_t index = TakeNumber(&digits);
      ASSIGN_OR_RETURN(
          value,
          interpreter_.Item(value,
                            index >= 0 && digits.empty() ? Value::Int(index)
                                                         : interpreter_.String(std::string(key))));
      name.remove_prefix(stop + 1);
    }
    return value;
  }

  absl::StatusOr<Value> FindArgument(std::string_view name) {
    std::string_view digits = name;
    const int64_t index = name.empty() ? next_++ : TakeNumber(&digits);
    if (name.empty() || (index >= 0 && digits.empty())) {
      if ((name.empty() ? has_manual_ : next_ > 0)) {
        return TypeError("format(): numbered fields and {} do not mix");
      }
      has_manual_ = has_manual_ || !name.empty();
      if (index >= static_cast<int64_t>(arguments_.positional.size())) {
        return TypeError(fmt::format("format(): there is no argument {}", index));
      }
      return arguments_.positional[static_cast<size_t>(index)];
    }
    for (const auto& [argument, value] : arguments_.named) {
      if (argument == name) {
        return value;
      }
    }
    return TypeError(fmt::format("format(): there is no argument '{}'", name));
  }

  Interpreter& interpreter_;
  const Arguments& arguments_;
  int64_t next_ = 0;         // argument of the next {}
  bool has_manual_ = false;  // a {0} was there
};

}  // namespace

absl::StatusOr<std::string> PercentFormat(Budget* budget,
                                          std::string_view format,
                                          const Value& values) {
  std::string out;
  size_t used = 0;
  const List positional = values.is_tuple() ? values.elements() : List{values};
  while (!format.empty()) {
    const char c = format.front();
    format.remove_prefix(1);
    if (c != '%') {
      out += c;
      continue;
    }
    if (Take(&format, '%')) {
      out += '%';
      continue;
    }
    Value value;
    if (Take(&format, '(')) {
      const size_t end = format.find(')');
      if (end == std::string_view::npos || !values.is_dict()) {
        return TypeError("%(name) needs a mapping and a ')'");
      }
      const Value* found = values.dict().FindString(format.substr(0, end));
      if (found == nullptr) {
        return TypeError(fmt::format("there is no '{}' to format", format.substr(0, end)));
      }
      value = *found;
      format.remove_prefix(end + 1);
      used = positional.size();
    } else if (used == positional.size()) {
      return TypeError("not enough arguments for the format");
    } else {
      value = positional[used++];
    }
    ASSIGN_OR_RETURN(const Spec spec, TakePercentSpec(&format, budget));
    ASSIGN_OR_RETURN(const std::string text, ConvertPercent(spec, value));
    out += text;
    RETURN_IF_ERROR(budget->CheckSize(static_cast<double>(out.size())));
  }
  // Python takes everything with a [] but tuples and strings for a mapping, of which the rest may
  // stay unused.
  const bool is_mapping = values.is_dict() || values.is_list() || values.is_undefined() ||
                          values.As<Range>() != nullptr;
  if (used < positional.size() && !is_mapping) {
    return TypeError("not all arguments were used by the format");
  }
  return out;
}

absl::StatusOr<std::string> BraceFormat(Interpreter& interpreter,
                                        std::string_view format,
                                        const Arguments& arguments) {
  return BraceFormatter(interpreter, arguments).Run(format);
}

double RoundDecimals(double value, int64_t decimals) {
  if (!std::isfinite(value) || decimals > 323) {
    return value;
  }
  if (decimals < 0) {
    const double scale = std::pow(10.0, static_cast<double>(std::min<int64_t>(-decimals, 308)));
    return std::nearbyint(value / scale) * scale;
  }
  const std::string text = fmt::format("{:.{}f}", value, decimals);
  return std::strtod(text.c_str(), nullptr);
}

}  // namespace ringserve::jinja
