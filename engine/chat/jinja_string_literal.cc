#include "engine/chat/jinja_string_literal.h"

#include <charconv>

#include <fmt/format.h>

#include "engine/text/utf8.h"

namespace ringserve::jinja {
namespace {

// The value of single-letter escapes; 0: not one.
char SimpleEscape(char c) {
  switch (c) {
    case 'a':
      return '\a';
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    case 'v':
      return '\v';
    case '\\':
    case '\'':
    case '"':
      return c;
    default:
      return 0;
  }
}

size_t HexDigits(char c) {
  return c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
}

absl::Status AppendCodePoint(uint32_t code_point, std::string* out) {
  if (code_point > 0x10ffff || (code_point >= 0xd800 && code_point < 0xe000)) {
    return absl::InvalidArgumentError(
        fmt::format("a string escapes U+{:04X}, which is no character", code_point));
  }
  AppendUtf8(code_point, out);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> UnescapeString(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    const char c = text[++i];  // a literal does not end in a lone backslash
    if (c == '\n') {
      continue;
    }
    if (const char simple = SimpleEscape(c); simple != 0) {
      out += simple;
      continue;
    }
    uint32_t value = 0;
    if (c >= '0' && c <= '7') {
      const char* const begin = text.data() + i;
      const char* const end = begin + std::min<size_t>(3, text.size() - i);
      i += static_cast<size_t>(std::from_chars(begin, end, value, 8).ptr - begin) - 1;
      RETURN_IF_ERROR(AppendCodePoint(value, &out));
    } else if (const size_t digits = HexDigits(c); digits > 0) {
      const std::string_view hex = text.substr(i + 1, digits);
      const auto result = std::from_chars(hex.data(), hex.data() + hex.size(), value, 16);
      if (hex.size() < digits || result.ptr != hex.data() + digits) {
        return absl::InvalidArgumentError(fmt::format("a string has a broken \\{} escape", c));
      }
      i += digits;
      RETURN_IF_ERROR(AppendCodePoint(value, &out));
    } else if (c == 'N') {
      return absl::InvalidArgumentError("a string names a character by \\N{...}: not supported");
    } else {  // unknown escapes stand for themselves
      out += '\\';
      out += c;
    }
  }
  return out;
}

}  // namespace ringserve::jinja
