#include "engine/text/char_property.h"

#include <vector>

#include "engine/text/char_set.h"
#include "engine/text/unicode_tables.h"

namespace ringserve {
namespace {

CharTable<uint16_t> Build() {
  std::vector<uint16_t> values(kMaxCodePoint + 1);
  const auto add = [&](const CharSet& set, CharProperty property) {
    for (const CharSet::Range& range : set.ranges()) {
      for (char32_t c = range.first; c <= range.last; ++c) {
        values[c] = static_cast<uint16_t>(values[c] | property);
      }
    }
  };
  add(WhiteSpace(), kSpaceChar);
  add(AddedTokenWord(), kWordChar);
  add(UnpackRanges(PackedPunctuation()), kPunctuationChar);
  add(UnpackRanges(PackedNumeric()), kNumericChar);
  add(UnpackRanges(PackedControlCharacters()), kControlChar);
  add(UnpackRanges(PackedCombiningMarks()), kCombiningMarkChar);
  add(UnpackRanges(PackedNonspacingMarks()), kNonspacingChar);
  add(UnpackRanges(PackedGraphemeExtend()), kGraphemeExtendChar);
  add(UnpackRanges(PackedGraphemePrepend()), kGraphemePrependChar);
  add(UnpackRanges(PackedGraphemeControl()), kGraphemeControlChar);
  add(UnpackRanges(PackedPictographs()), kPictographChar);
  add(CharSet::FromRanges({{0x3400, 0x4dbf},
                           {0x4e00, 0x9fff},
                           {0xf900, 0xfaff},
                           {0x20000, 0x2a6df},
                           {0x2a700, 0x2b81f},
                           {0x2b920, 0x2ceaf},
                           {0x2f800, 0x2fa1f}}),
      kIdeographChar);
  return CharTable<uint16_t>(values);
}

}  // namespace

const CharTable<uint16_t>& CharProperties() {
  static const CharTable<uint16_t> table = Build();
  return table;
}

}  // namespace ringserve
