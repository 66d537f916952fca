// What the regex engine and the normalizer of Hugging Face's `tokenizers` know of Unicode
// (16 and 9). Generated: see scripts/generate-unicode-tables.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace ringserve {

// Runs of equal general category, ascending: first code point << 5 | index into kCategoryNames.
// A run ends where the next begins, the last at U+10FFFF.
inline constexpr std::array<const char*, 30> kCategoryNames = {
    "Cn", "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc", "Me", "Mn", "Nd", "Nl",
    "No", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs"};
std::span<const uint32_t> CategoryRuns();

// One step of canonical decomposition, ascending by code_point; Hangul syllables are arithmetic.
struct CanonicalSingle {
  char32_t code_point, target;
};

struct CanonicalPair {
  char32_t code_point, first, second;
  bool composes;  // false: excluded from composition
};

struct CombiningRun {  // code points with a canonical combining class other than 0
  char32_t first, last;
  uint8_t combining_class;
};

std::span<const CanonicalSingle> CanonicalSingles();
std::span<const CanonicalPair> CanonicalPairs();
std::span<const CombiningRun> CombiningRuns();

}  // namespace ringserve
