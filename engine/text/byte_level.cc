#include "engine/text/byte_level.h"

#include <array>
#include <cstdint>

#include "engine/text/utf8.h"

namespace ringserve {
namespace {

constexpr size_t kAlphabetEnd = 256 + 68;  // the 68 bytes that are not printable come after 255

// The byte of a character of the alphabet, or -1.
constexpr std::array<int16_t, kAlphabetEnd> MakeAlphabet() {
  std::array<int16_t, kAlphabetEnd> byte_of{};
  size_t next = 256;
  for (size_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    byte_of[byte] = -1;
    byte_of[printable ? byte : next++] = static_cast<int16_t>(byte);
  }
  return byte_of;
}

constexpr auto kByteOf = MakeAlphabet();

constexpr std::array<char32_t, 256> MakeCharacters() {
  std::array<char32_t, 256> character_of{};
  for (size_t c = 0; c < kAlphabetEnd; ++c) {
    if (kByteOf[c] >= 0) {
      character_of[static_cast<size_t>(kByteOf[c])] = static_cast<char32_t>(c);
    }
  }
  return character_of;
}

constexpr auto kCharacterOf = MakeCharacters();

}  // namespace

std::optional<std::string> BytesOfToken(std::string_view token) {
  std::string bytes;
  for (size_t position = 0; position < token.size();) {
    const char32_t c = DecodeUtf8(token, &position);
    if (c >= kAlphabetEnd || kByteOf[c] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(kByteOf[c]));
  }
  return bytes;
}

void AppendByteLevel(std::string_view bytes, std::string* out) {
  for (const char byte : bytes) {
    AppendUtf8(kCharacterOf[static_cast<uint8_t>(byte)], out);
  }
}

}  // namespace ringserve
