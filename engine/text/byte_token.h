// The tokens <0x00> to <0xFF> that stand for single bytes where a vocabulary lacks a character.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace ringserve {

// The byte that `token` stands for. With `any_case` also <0xff> and <0x+f>, which decoders accept.
inline std::optional<uint8_t> ByteOfToken(std::string_view token, bool any_case) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') {
    return std::nullopt;
  }
  int value = 0;
  for (const char c :
       token.substr(any_case && token[3] == '+' ? 4 : 3, any_case && token[3] == '+' ? 1 : 2)) {
    const int digit = c >= '0' && c <= '9'               ? c - '0'
                      : c >= 'A' && c <= 'F'             ? c - 'A' + 10
                      : any_case && c >= 'a' && c <= 'f' ? c - 'a' + 10
                                                         : -1;
    if (digit < 0) {
      return std::nullopt;
    }
    value = value * 16 + digit;
  }
  return static_cast<uint8_t>(value);
}

}  // namespace ringserve
