// UTF-8, and its repair: what is not UTF-8 becomes U+FFFD, one for each maximal invalid piece, as
// Rust's from_utf8_lossy and the Unicode standard (section 3.9) have it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ringserve {

// Where `text` stops being UTF-8; text.size() if it does not.
size_t ValidUtf8Prefix(std::string_view text);

// Requires `*position` to be at the start of a character of a valid text. Advances it.
char32_t DecodeUtf8(std::string_view text, size_t* position);

void AppendUtf8(char32_t code_point, std::string* out);

// The number of bytes of the character that begins with `lead`, in a valid text.
inline size_t Utf8Length(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

// Repairs a text that comes in pieces, cut anywhere.
class Utf8Repair {
 public:
  // Appends to `out` every character that is decided. Only whole characters are appended.
  void Push(std::string_view bytes, std::string* out);
  // The end: a character that was begun becomes U+FFFD.
  void Finish(std::string* out);

 private:
  void PushByte(char c, std::string* out);

  std::string pending_;               // the beginning of a character; at most 3 bytes
  size_t expected_ = 0;               // its length in bytes
  uint8_t low_ = 0x80, high_ = 0xbf;  // what the next byte may be
};

}  // namespace ringserve
