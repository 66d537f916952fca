#include "engine/text/charsmap.h"

#include <fmt/format.h>

#include "engine/text/grapheme.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

uint32_t ReadU32(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = 4; i-- > 0;) {
    value = value << 8 | static_cast<uint8_t>(bytes[i]);
  }
  return value;
}

// A unit of the double array.
bool HasLeaf(uint32_t unit) {
  return (unit >> 8 & 1) != 0;
}

uint32_t LeafValue(uint32_t unit) {
  return unit & 0x7fffffff;
}

uint32_t LabelOf(uint32_t unit) {
  return unit & 0x800000ff;
}

uint32_t OffsetOf(uint32_t unit) {
  return unit >> 10 << ((unit & 1U << 9) >> 6);
}

}  // namespace

absl::StatusOr<Charsmap> Charsmap::Parse(std::string_view bytes) {
  const auto error = [](std::string_view message) {
    return absl::InvalidArgumentError(std::string(message));
  };
  if (bytes.size() < 4) {
    return error("no room for the size of its trie");
  }
  const size_t trie_bytes = size_t{ReadU32(bytes)} / 4 * 4;
  bytes.remove_prefix(4);
  if (trie_bytes == 0 || trie_bytes > bytes.size()) {
    return error(
        fmt::format("a trie of {} bytes in the {} that are there", trie_bytes, bytes.size()));
  }
  Charsmap charsmap;
  charsmap.units_.reserve(trie_bytes / 4);
  for (size_t i = 0; i < trie_bytes; i += 4) {
    charsmap.units_.push_back(ReadU32(bytes.substr(i, 4)));
  }
  bytes.remove_prefix(trie_bytes);
  if (const size_t valid = ValidUtf8Prefix(bytes); valid != bytes.size()) {
    return error(fmt::format("replacements are not UTF-8 at byte {}", valid));
  }
  charsmap.replacements_ = bytes;
  return charsmap;
}

bool Charsmap::Find(std::string_view text, std::string_view* replacement) const {
  size_t position = OffsetOf(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    position ^= byte;
    if (byte == 0 || position >= units_.size() || LabelOf(units_[position]) != byte) {
      return false;
    }
    const uint32_t unit = units_[position];
    position ^= OffsetOf(unit);
    if (HasLeaf(unit)) {
      if (position >= units_.size() || LeafValue(units_[position]) > replacements_.size()) {
        return false;
      }
      const std::string_view rest =
          std::string_view(replacements_).substr(LeafValue(units_[position]));
      *replacement = rest.substr(0, rest.find('\0'));
      // A value that points into a character is damage, not a rule.
      return ValidUtf8Prefix(*replacement) == replacement->size();
    }
  }
  return false;
}

size_t Charsmap::NextGrapheme(std::string_view text, size_t begin) {
  return GraphemeEnd(text, begin);
}

size_t Charsmap::NextCharacter(std::string_view text, size_t begin) {
  return begin + Utf8Length(text[begin]);
}

}  // namespace ringserve
