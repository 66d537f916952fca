#include "engine/text/nfc.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/text/unicode_tables.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

// Hangul syllables are composed by arithmetic (the Unicode standard, section 3.12).
constexpr char32_t kSyllables = 0xac00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11a7;
constexpr char32_t kNumLeads = 19, kNumVowels = 21, kNumTails = 28;
constexpr char32_t kNumSyllables = kNumLeads * kNumVowels * kNumTails;
constexpr char32_t kNumCodePoints = 0x110000;

struct Tables {
  Tables() : may_change(kNumCodePoints, false) {
    for (const CanonicalSingle& single : CanonicalSingles()) {
      parts[single.code_point] = {single.target, 0};
      may_change[single.code_point] = true;
    }
    for (const CanonicalPair& pair : CanonicalPairs()) {
      parts[pair.code_point] = {pair.first, pair.second};
      if (pair.composes) {
        composite[Key(pair.first, pair.second)] = pair.code_point;
        may_change[pair.second] = true;
      } else {
        may_change[pair.code_point] = true;
      }
    }
    for (const CombiningRun& run : CombiningRuns()) {
      for (char32_t c = run.first; c <= run.last; ++c) {
        combining_class[c] = run.combining_class;
        may_change[c] = true;
      }
    }
    for (char32_t i = 0; i < kNumVowels; ++i) {
      may_change[kVowels + i] = true;
    }
    for (char32_t i = 1; i < kNumTails; ++i) {
      may_change[kTails + i] = true;
    }
  }

  static uint64_t Key(char32_t first, char32_t second) {
    return static_cast<uint64_t>(first) << 32 | second;
  }

  uint8_t ClassOf(char32_t c) const {
    const auto found = combining_class.find(c);
    return found == combining_class.end() ? 0 : found->second;
  }

  // 0: the two do not compose.
  char32_t Compose(char32_t first, char32_t second) const {
    if (first - kLeads < kNumLeads && second - kVowels < kNumVowels) {
      return kSyllables + ((first - kLeads) * kNumVowels + (second - kVowels)) * kNumTails;
    }
    if (first - kSyllables < kNumSyllables && (first - kSyllables) % kNumTails == 0 &&
        second > kTails && second - kTails < kNumTails) {
      return first + (second - kTails);
    }
    const auto found = composite.find(Key(first, second));
    return found == composite.end() ? 0 : found->second;
  }

  std::vector<bool> may_change;
  std::unordered_map<char32_t, std::pair<char32_t, char32_t>> parts;
  std::unordered_map<uint64_t, char32_t> composite;
  std::unordered_map<char32_t, uint8_t> combining_class;
};

const Tables& TheTables() {
  static const Tables tables;
  return tables;
}

struct Character {
  char32_t code_point;
  uint8_t combining_class;
};

void Decompose(const Tables& tables, char32_t c, std::vector<Character>* out) {
  if (c - kSyllables < kNumSyllables) {
    const char32_t index = c - kSyllables;
    out->push_back({kLeads + index / (kNumVowels * kNumTails), 0});
    out->push_back({kVowels + index % (kNumVowels * kNumTails) / kNumTails, 0});
    if (index % kNumTails != 0) {
      out->push_back({kTails + index % kNumTails, 0});
    }
    return;
  }
  const auto found = tables.parts.find(c);
  if (found == tables.parts.end()) {
    out->push_back({c, tables.ClassOf(c)});
    return;
  }
  Decompose(tables, found->second.first, out);
  if (found->second.second != 0) {
    Decompose(tables, found->second.second, out);
  }
}

// Marks after one base, in the order of their classes.
void Reorder(std::vector<Character>* text) {
  for (auto begin = text->begin(); begin != text->end();) {
    if (begin->combining_class == 0) {
      ++begin;
      continue;
    }
    const auto end =
        std::find_if(begin, text->end(), [](const Character& c) { return c.combining_class == 0; });
    std::stable_sort(begin, end, [](const Character& a, const Character& b) {
      return a.combining_class < b.combining_class;
    });
    begin = end;
  }
}

std::string ComposeAll(const Tables& tables, const std::vector<Character>& text) {
  std::vector<Character> composed;
  ptrdiff_t starter = -1;  // in composed: the last character of class 0
  for (const Character& c : text) {
    if (starter >= 0) {
      const Character& last = composed.back();
      const bool adjacent = starter + 1 == static_cast<ptrdiff_t>(composed.size());
      // Blocked: something between the starter and c has c's class or a higher one.
      const bool blocked = !adjacent && last.combining_class >= c.combining_class;
      char32_t& base = composed[static_cast<size_t>(starter)].code_point;
      const char32_t composite = blocked ? 0 : tables.Compose(base, c.code_point);
      if (composite != 0) {
        base = composite;
        continue;
      }
    }
    if (c.combining_class == 0) {
      starter = static_cast<ptrdiff_t>(composed.size());
    }
    composed.push_back(c);
  }
  std::string out;
  for (const Character& c : composed) {
    AppendUtf8(c.code_point, &out);
  }
  return out;
}

}  // namespace

bool MayChangeUnderNfc(std::string_view text) {
  const Tables& tables = TheTables();
  for (size_t position = 0; position < text.size();) {
    // No character below U+0300 changes, and these are the ones that begin with a byte below CC.
    if (static_cast<uint8_t>(text[position]) < 0xcc) {
      ++position;
    } else if (tables.may_change[DecodeUtf8(text, &position)]) {
      return true;
    }
  }
  return false;
}

std::string Nfc(std::string_view text) {
  if (!MayChangeUnderNfc(text)) {
    return std::string(text);
  }
  const Tables& tables = TheTables();
  std::vector<Character> characters;
  characters.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    Decompose(tables, DecodeUtf8(text, &position), &characters);
  }
  Reorder(&characters);
  return ComposeAll(tables, characters);
}

}  // namespace ringserve
