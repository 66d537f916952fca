#include "engine/constraint/json_pointer.h"

#include <algorithm>
#include <cctype>

namespace ringserve {
namespace {

bool IsHex(char c) {
  return std::isxdigit(static_cast<unsigned char>(c)) != 0;
}

// ~0, ~1 and %41.
std::string Unescaped(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string_view rest = text.substr(i);
    if (rest.substr(0, 2) == "~0" || rest.substr(0, 2) == "~1") {
      out += rest[1] == '0' ? '~' : '/';
      ++i;
    } else if (rest.size() > 2 && rest[0] == '%' && IsHex(rest[1]) && IsHex(rest[2])) {
      out += static_cast<char>(std::stoi(std::string(rest.substr(1, 2)), nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

const JsonValue* Item(const JsonValue& array, const std::string& index) {
  constexpr size_t kMaxDigits = 6;
  const bool is_index =
      !index.empty() && index.size() <= kMaxDigits &&
      std::all_of(index.begin(), index.end(), [](char c) { return c >= '0' && c <= '9'; });
  const auto at = is_index ? static_cast<size_t>(std::stoll(index)) : array.items.size();
  return at < array.items.size() ? &array.items[at] : nullptr;
}

}  // namespace

std::string EscapedPointer(std::string_view key) {
  std::string out;
  for (const char c : key) {
    out += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
  }
  return out;
}

const JsonValue* FindByPointer(const JsonValue& document, std::string_view pointer) {
  const JsonValue* at = &document;
  for (size_t begin = 1; begin < pointer.size() && at != nullptr;) {
    const size_t end = std::min(pointer.find('/', begin + 1), pointer.size());
    const std::string key = Unescaped(pointer.substr(begin + 1, end - begin - 1));
    at = at->kind == JsonValue::Kind::kArray ? Item(*at, key) : at->Find(key);
    begin = end;
  }
  return at;
}

}  // namespace ringserve
