// What the normalizers and pre-tokenizers of `tokenizers` ask of a character, each answered with
// the Unicode version that this part of the library has.
#pragma once

#include <cstdint>

#include "engine/text/char_table.h"

namespace ringserve {

enum CharProperty : uint16_t {
  kSpaceChar = 1 << 0,
  kWordChar = 1 << 1,  // Rust's \w
  kPunctuationChar = 1 << 2,
  kNumericChar = 1 << 3,
  kControlChar = 1 << 4,        // what BertNormalizer cleans away
  kCombiningMarkChar = 1 << 5,  // what StripAccents removes
  kNonspacingChar = 1 << 6,     // what BertNormalizer takes for an accent
  kIdeographChar = 1 << 7,      // what BertNormalizer sets apart
  kGraphemeExtendChar = 1 << 8,
  kGraphemePrependChar = 1 << 9,
  kGraphemeControlChar = 1 << 10,
  kPictographChar = 1 << 11,
};

// By code point: the properties it has.
const CharTable<uint16_t>& CharProperties();

inline bool Has(uint16_t properties, CharProperty property) {
  return (properties & property) != 0;
}

}  // namespace ringserve
