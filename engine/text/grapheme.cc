#include "engine/text/grapheme.h"

#include <cstdint>

#include "engine/text/char_property.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

constexpr char32_t kJoiner = 0x200d;

enum class Hangul { kNone, kLead, kVowel, kTail, kOpen, kClosed };  // the last two: syllables

Hangul HangulOf(char32_t c) {
  if ((c >= 0x1100 && c <= 0x115f) || (c >= 0xa960 && c <= 0xa97c)) {
    return Hangul::kLead;
  }
  if ((c >= 0x1160 && c <= 0x11a7) || (c >= 0xd7b0 && c <= 0xd7c6)) {
    return Hangul::kVowel;
  }
  if ((c >= 0x11a8 && c <= 0x11ff) || (c >= 0xd7cb && c <= 0xd7fb)) {
    return Hangul::kTail;
  }
  if (c >= 0xac00 && c <= 0xd7a3) {
    return (c - 0xac00) % 28 == 0 ? Hangul::kOpen : Hangul::kClosed;
  }
  return Hangul::kNone;
}

bool JoinsHangul(Hangul before, Hangul after) {
  switch (before) {
    case Hangul::kLead:
      return after != Hangul::kNone && after != Hangul::kTail;
    case Hangul::kVowel:
    case Hangul::kOpen:
      return after == Hangul::kVowel || after == Hangul::kTail;
    case Hangul::kTail:
    case Hangul::kClosed:
      return after == Hangul::kTail;
    default:
      return false;
  }
}

}  // namespace

size_t GraphemeEnd(std::string_view text, size_t begin) {
  const CharTable<uint16_t>& properties_of = CharProperties();
  size_t end = begin;
  char32_t before = DecodeUtf8(text, &end);
  uint16_t before_is = properties_of[before];
  bool pictograph = Has(before_is, kPictographChar);  // and only what extends it since
  while (end < text.size()) {
    size_t next = end;
    const char32_t c = DecodeUtf8(text, &next);
    if (before < 0x80 && c < 0x80) {
      return before == '\r' && c == '\n' ? next : end;
    }
    const uint16_t is = properties_of[c];
    if (Has(before_is, kGraphemeControlChar) || Has(is, kGraphemeControlChar)) {
      return end;
    }
    const bool joins = Has(is, kGraphemeExtendChar) || Has(before_is, kGraphemePrependChar) ||
                       JoinsHangul(HangulOf(before), HangulOf(c)) ||
                       (pictograph && before == kJoiner && Has(is, kPictographChar));
    if (!joins) {
      return end;
    }
    pictograph = Has(is, kPictographChar) || (pictograph && Has(is, kGraphemeExtendChar));
    before = c;
    before_is = is;
    end = next;
  }
  return end;
}

}  // namespace ringserve
