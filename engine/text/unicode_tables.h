// What Hugging Face's `tokenizers` knows of Unicode: its regex engine 16, its normalizer 9, other
// parts other versions. Generated: scripts/generate-unicode-tables says how, why, and in which form
// the numbers of a table are written. Here is what the numbers of each kind of table mean:
//   Runs       length of the run before, value: for all code points from 0 on
//   Ranges     distance from the end of the range before (at first from 0), length
//   Mappings   distance from one behind the code point before (at first from 0), length of the
//              sequence, and each of its code points as the difference from the last one written in
//              the table (at first 0): 2d for d >= 0, else -2d - 1
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/char_set.h"

namespace ringserve {

inline constexpr std::array<const char*, 30> kCategoryNames = {
    "Cn", "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc", "Me", "Mn", "Nd", "Nl",
    "No", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs"};

// normalization_tables.cc
std::string_view PackedComposing();
std::string_view PackedNotComposing();
std::string_view PackedCompatibility();
std::string_view PackedCombiningClasses();

// unicode_tables.cc
std::string_view PackedCategories();
std::string_view PackedScripts();
std::string_view PackedLowercase();
std::string_view PackedCombiningMarks();
std::string_view PackedNonspacingMarks();
std::string_view PackedControlCharacters();
std::string_view PackedPunctuation();
std::string_view PackedNumeric();
std::string_view PackedGraphemeExtend();
std::string_view PackedGraphemePrepend();
std::string_view PackedGraphemeControl();
std::string_view PackedPictographs();

struct CodePointRun {
  char32_t first, last;
  uint32_t value;
};

struct CodePointMapping {
  char32_t code_point;
  std::u32string sequence;
};

std::vector<CodePointRun> UnpackRuns(std::string_view packed);
CharSet UnpackRanges(std::string_view packed);
std::vector<CodePointMapping> UnpackMappings(std::string_view packed);

}  // namespace ringserve
