#include "engine/chat/python_text.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "engine/text/char_set.h"
#include "engine/text/utf8.h"

namespace ringserve::jinja {
namespace {

bool IsContinuation(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

// The last code point of a text that is not empty.
std::string_view LastCodePoint(std::string_view text) {
  size_t start = text.size() - 1;
  while (IsContinuation(text[start])) {
    --start;
  }
  return text.substr(start);
}

char32_t Decode(std::string_view character) {
  size_t position = 0;
  return DecodeUtf8(character, &position);
}

bool IsStripped(std::string_view character, std::optional<std::string_view> characters) {
  return characters ? characters->find(character) != std::string_view::npos
                    : IsSpace(Decode(character));
}

bool IsLineBreak(char32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

// What repr() shows as an escape.
bool IsPrintable(char32_t c) {
  static const CharSet hidden = GeneralCategory("C")->Union(*GeneralCategory("Z"));
  return c == ' ' || !hidden.Contains(c);
}

size_t LimitOf(int64_t limit) {
  return limit < 0 ? std::numeric_limits<size_t>::max() : static_cast<size_t>(limit);
}

std::vector<std::string_view> SplitAtSpaces(std::string_view text, size_t limit) {
  std::vector<std::string_view> parts;
  text = StripLeft(text);
  while (!text.empty()) {
    if (parts.size() == limit) {
      parts.push_back(text);
      break;
    }
    size_t end = 0;
    while (end < text.size() && !IsSpace(Decode(text.substr(end)))) {
      end += Utf8Length(text[end]);
    }
    parts.push_back(text.substr(0, end));
    text = StripLeft(text.substr(end));
  }
  return parts;
}

std::vector<std::string_view> SplitAtSpacesFromRight(std::string_view text, size_t limit) {
  std::vector<std::string_view> parts;
  text = StripRight(text);
  while (!text.empty()) {
    if (parts.size() == limit) {
      parts.push_back(text);
      break;
    }
    size_t start = text.size();
    while (start > 0) {
      const std::string_view last = LastCodePoint(text.substr(0, start));
      if (IsSpace(Decode(last))) {
        break;
      }
      start -= last.size();
    }
    parts.push_back(text.substr(start));
    text = StripRight(text.substr(0, start));
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace

size_t CountCodePoints(std::string_view text) {
  return text.size() - static_cast<size_t>(std::count_if(text.begin(), text.end(), IsContinuation));
}

std::vector<std::string_view> SplitCodePoints(std::string_view text) {
  std::vector<std::string_view> characters;
  for (size_t at = 0; at < text.size(); at += characters.back().size()) {
    characters.push_back(text.substr(at, Utf8Length(text[at])));
  }
  return characters;
}

size_t ByteOffset(std::string_view text, size_t code_point) {
  size_t at = 0;
  for (; code_point > 0 && at < text.size(); --code_point) {
    at += Utf8Length(text[at]);
  }
  return at;
}

bool IsSpace(char32_t code_point) {
  if (code_point < 0x80) {
    return code_point == ' ' || (code_point >= 0x09 && code_point <= 0x0d) ||
           (code_point >= 0x1c && code_point <= 0x1f);
  }
  return WhiteSpace().Contains(code_point);
}

std::string_view StripLeft(std::string_view text, std::optional<std::string_view> characters) {
  while (!text.empty()) {
    const size_t length = Utf8Length(text.front());
    if (!IsStripped(text.substr(0, length), characters)) {
      break;
    }
    text.remove_prefix(length);
  }
  return text;
}

std::string_view StripRight(std::string_view text, std::optional<std::string_view> characters) {
  while (!text.empty()) {
    const std::string_view last = LastCodePoint(text);
    if (!IsStripped(last, characters)) {
      break;
    }
    text.remove_suffix(last.size());
  }
  return text;
}

std::string_view Strip(std::string_view text, std::optional<std::string_view> characters) {
  return StripRight(StripLeft(text, characters), characters);
}

std::vector<std::string_view> Split(std::string_view text,
                                    std::optional<std::string_view> separator,
                                    int64_t limit) {
  if (!separator) {
    return SplitAtSpaces(text, LimitOf(limit));
  }
  std::vector<std::string_view> parts;
  while (parts.size() < LimitOf(limit)) {
    const size_t at = text.find(*separator);
    if (at == std::string_view::npos) {
      break;
    }
    parts.push_back(text.substr(0, at));
    text.remove_prefix(at + separator->size());
  }
  parts.push_back(text);
  return parts;
}

std::vector<std::string_view> SplitFromRight(std::string_view text,
                                             std::optional<std::string_view> separator,
                                             int64_t limit) {
  if (!separator) {
    return SplitAtSpacesFromRight(text, LimitOf(limit));
  }
  std::vector<std::string_view> parts;
  while (parts.size() < LimitOf(limit)) {
    const size_t at = text.rfind(*separator);
    if (at == std::string_view::npos) {
      break;
    }
    parts.push_back(text.substr(at + separator->size()));
    text = text.substr(0, at);
  }
  parts.push_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = DecodeUtf8(text, &at);
    if (!IsLineBreak(c)) {
      continue;
    }
    if (c == '\r' && at < text.size() && text[at] == '\n') {
      ++at;
    }
    lines.push_back(text.substr(start, (keep_ends ? at : begin) - start));
    start = at;
  }
  if (start < text.size()) {
    lines.push_back(text.substr(start));
  }
  return lines;
}

size_t CountOccurrences(std::string_view text, std::string_view part) {
  if (part.empty()) {
    return CountCodePoints(text) + 1;
  }
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string_view::npos;
       at = text.find(part, at + part.size())) {
    ++count;
  }
  return count;
}

std::string Replace(std::string_view text,
                    std::string_view from,
                    std::string_view to,
                    int64_t limit) {
  std::string out;
  size_t left = LimitOf(limit);
  if (from.empty()) {  // before every code point and at the end
    for (const std::string_view character : SplitCodePoints(text)) {
      if (left > 0) {
        out += to;
        --left;
      }
      out += character;
    }
    return left > 0 ? out.append(to) : out;
  }
  for (; left > 0; --left) {
    const size_t at = text.find(from);
    if (at == std::string_view::npos) {
      break;
    }
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return out.append(text);
}

std::string StringRepr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const std::string_view character : SplitCodePoints(text)) {
    const char32_t c = Decode(character);
    if (c == '\\' || c == static_cast<char32_t>(quote)) {
      out.append("\\").append(character);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (IsPrintable(c)) {
      out += character;
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
    }
  }
  return out + quote;
}

}  // namespace ringserve::jinja
