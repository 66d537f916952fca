#include "engine/text/normal_form.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/text/char_table.h"
#include "engine/text/unicode_tables.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

// Hangul syllables are composed by arithmetic (the Unicode standard, section 3.12).
constexpr char32_t kSyllables = 0xac00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11a7;
constexpr char32_t kNumLeads = 19, kNumVowels = 21, kNumTails = 28;
constexpr char32_t kNumSyllables = kNumLeads * kNumVowels * kNumTails;

constexpr size_t kNumForms = 4;

bool Composes(NormalForm form) {
  return form == NormalForm::kNfc || form == NormalForm::kNfkc;
}

bool IsCompatibility(NormalForm form) {
  return form == NormalForm::kNfkc || form == NormalForm::kNfkd;
}

uint8_t Bit(NormalForm form) {
  return static_cast<uint8_t>(1U << static_cast<unsigned>(form));
}

uint64_t PairKey(char32_t first, char32_t second) {
  return static_cast<uint64_t>(first) << 32 | second;
}

// Sequences by code point; index 0: the character stays as it is.
class SequenceTable {
 public:
  explicit SequenceTable(const std::unordered_map<char32_t, std::u32string>& sequences)
      : index_(Number(sequences)) {}

  // Empty: the character stays as it is.
  const std::u32string& operator[](char32_t c) const { return sequences_[index_[c]]; }

 private:
  std::vector<uint16_t> Number(const std::unordered_map<char32_t, std::u32string>& sequences) {
    std::vector<uint16_t> index(kMaxCodePoint + 1);
    for (const auto& [code_point, sequence] : sequences) {
      index[code_point] = static_cast<uint16_t>(sequences_.size());
      sequences_.push_back(sequence);
    }
    return index;
  }

  std::vector<std::u32string> sequences_ = {U""};
  CharTable<uint16_t> index_;
};

using SequenceMap = std::unordered_map<char32_t, std::u32string>;

// All steps of canonical decomposition.
SequenceMap CanonicalSequences() {
  SequenceMap one_step;
  for (const std::string_view packed : {PackedComposing(), PackedNotComposing()}) {
    for (CodePointMapping& mapping : UnpackMappings(packed)) {
      one_step.emplace(mapping.code_point, std::move(mapping.sequence));
    }
  }
  SequenceMap all_steps;
  for (const auto& [code_point, first_step] : one_step) {
    std::u32string sequence = first_step;
    for (size_t i = 0; i < sequence.size();) {
      const auto found = one_step.find(sequence[i]);
      if (found == one_step.end()) {
        ++i;
      } else {
        sequence.replace(i, 1, found->second);
      }
    }
    all_steps.emplace(code_point, std::move(sequence));
  }
  return all_steps;
}

SequenceMap CompatibilitySequences() {
  SequenceMap sequences = CanonicalSequences();
  for (CodePointMapping& mapping : UnpackMappings(PackedCompatibility())) {
    sequences[mapping.code_point] = std::move(mapping.sequence);
  }
  return sequences;
}

std::vector<uint8_t> CombiningClassValues() {
  std::vector<uint8_t> values(kMaxCodePoint + 1);
  for (const CodePointRun& run : UnpackRuns(PackedCombiningClasses())) {
    std::fill(
        values.begin() + run.first, values.begin() + run.last + 1, static_cast<uint8_t>(run.value));
  }
  return values;
}

// Bit(form): a text without such characters stays as it is.
std::vector<uint8_t> MayChangeValues() {
  std::vector<uint8_t> values = CombiningClassValues();
  constexpr uint8_t kAll = (1U << kNumForms) - 1;
  const auto add = [&](char32_t c, uint8_t bits) {
    values[c] = static_cast<uint8_t>(values[c] | bits);
  };
  const auto decomposed = static_cast<uint8_t>(Bit(NormalForm::kNfd) | Bit(NormalForm::kNfkd));
  const auto composed = static_cast<uint8_t>(Bit(NormalForm::kNfc) | Bit(NormalForm::kNfkc));
  const auto compatible = static_cast<uint8_t>(Bit(NormalForm::kNfkc) | Bit(NormalForm::kNfkd));
  for (uint8_t& value : values) {
    value = value == 0 ? 0 : kAll;
  }
  for (const CodePointMapping& mapping : UnpackMappings(PackedNotComposing())) {
    add(mapping.code_point, kAll);
  }
  for (const CodePointMapping& mapping : UnpackMappings(PackedComposing())) {
    add(mapping.code_point, decomposed);
    add(mapping.sequence.back(), composed);
  }
  for (const CodePointMapping& mapping : UnpackMappings(PackedCompatibility())) {
    add(mapping.code_point, compatible);
  }
  for (char32_t i = 0; i < kNumSyllables; ++i) {
    add(kSyllables + i, decomposed);
  }
  for (char32_t i = 0; i < kNumVowels; ++i) {
    add(kVowels + i, composed);
  }
  for (char32_t i = 1; i < kNumTails; ++i) {
    add(kTails + i, composed);
  }
  return values;
}

struct Tables {
  Tables()
      : canonical(CanonicalSequences()),
        compatibility(CompatibilitySequences()),
        combining_class(CombiningClassValues()),
        may_change(MayChangeValues()) {
    for (const CodePointMapping& mapping : UnpackMappings(PackedComposing())) {
      composite[PairKey(mapping.sequence[0], mapping.sequence[1])] = mapping.code_point;
    }
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
    const auto found = composite.find(PairKey(first, second));
    return found == composite.end() ? 0 : found->second;
  }

  SequenceTable canonical;
  SequenceTable compatibility;
  CharTable<uint8_t> combining_class;
  CharTable<uint8_t> may_change;
  std::unordered_map<uint64_t, char32_t> composite;
};

const Tables& TheTables() {
  static const Tables tables;
  return tables;
}

struct Character {
  char32_t code_point;
  uint8_t combining_class;
};

void Decompose(const Tables& tables, NormalForm form, char32_t c, std::vector<Character>* out) {
  if (c - kSyllables < kNumSyllables) {
    const char32_t index = c - kSyllables;
    out->push_back({kLeads + index / (kNumVowels * kNumTails), 0});
    out->push_back({kVowels + index % (kNumVowels * kNumTails) / kNumTails, 0});
    if (index % kNumTails != 0) {
      out->push_back({kTails + index % kNumTails, 0});
    }
    return;
  }
  const std::u32string& parts =
      IsCompatibility(form) ? tables.compatibility[c] : tables.canonical[c];
  if (parts.empty()) {
    out->push_back({c, tables.combining_class[c]});
  }
  for (const char32_t part : parts) {
    out->push_back({part, tables.combining_class[part]});
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

// In place.
void ComposeAll(const Tables& tables, std::vector<Character>* text) {
  size_t count = 0;        // characters that are composed
  ptrdiff_t starter = -1;  // among them: the last character of class 0
  for (const Character c : *text) {
    if (starter >= 0) {
      const Character& last = (*text)[count - 1];
      const bool adjacent = starter + 1 == static_cast<ptrdiff_t>(count);
      // Blocked: something between the starter and c has c's class or a higher one.
      const bool blocked = !adjacent && last.combining_class >= c.combining_class;
      char32_t& base = (*text)[static_cast<size_t>(starter)].code_point;
      const char32_t composite = blocked ? 0 : tables.Compose(base, c.code_point);
      if (composite != 0) {
        base = composite;
        continue;
      }
    }
    if (c.combining_class == 0) {
      starter = static_cast<ptrdiff_t>(count);
    }
    (*text)[count++] = c;
  }
  text->resize(count);
}

}  // namespace

// Characters that cannot change separate pieces that may; a piece takes along the one before it,
// with which it may compose.
std::string Normalize(NormalForm form, std::string_view text) {
  const Tables& tables = TheTables();
  const uint8_t bit = Bit(form);
  // No character below U+0300 changes under NFC: those that begin with a byte below CC.
  const uint8_t first_lead = form == NormalForm::kNfc ? 0xcc : 0x80;
  std::string out;
  std::vector<Character> piece;
  size_t copied = 0;
  size_t previous = 0;  // the start of the character before `position`
  for (size_t position = 0; position < text.size();) {
    size_t end = position;
    if (static_cast<uint8_t>(text[position]) < first_lead) {
      previous = position;
      position += Utf8Length(text[position]);
      continue;
    }
    if ((tables.may_change[DecodeUtf8(text, &end)] & bit) == 0) {
      previous = position;
      position = end;
      continue;
    }
    const size_t begin = std::max(previous, copied);
    for (size_t next = end; next < text.size(); end = next) {
      if ((tables.may_change[DecodeUtf8(text, &next)] & bit) == 0) {
        break;
      }
    }
    piece.clear();
    for (size_t i = begin; i < end;) {
      Decompose(tables, form, DecodeUtf8(text, &i), &piece);
    }
    Reorder(&piece);
    if (Composes(form)) {
      ComposeAll(tables, &piece);
    }
    out.append(text, copied, begin - copied);
    for (const Character& c : piece) {
      AppendUtf8(c.code_point, &out);
    }
    copied = previous = position = end;
  }
  return out.append(text, copied);
}

std::string ToLower(std::string_view text) {
  static const SequenceTable table = [] {
    SequenceMap sequences;
    for (CodePointMapping& mapping : UnpackMappings(PackedLowercase())) {
      sequences.emplace(mapping.code_point, std::move(mapping.sequence));
    }
    return SequenceTable(sequences);
  }();
  std::string out;
  out.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    const auto byte = static_cast<uint8_t>(text[position]);
    if (byte < 0x80) {
      out.push_back(static_cast<char>(byte >= 'A' && byte <= 'Z' ? byte + 32 : byte));
      ++position;
      continue;
    }
    const char32_t c = DecodeUtf8(text, &position);
    const std::u32string& lower = table[c];
    if (lower.empty()) {
      AppendUtf8(c, &out);
    }
    for (const char32_t l : lower) {
      AppendUtf8(l, &out);
    }
  }
  return out;
}

}  // namespace ringserve
