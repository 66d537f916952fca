#include "engine/text/pretokenizer_stages.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engine/text/byte_level.h"
#include "engine/text/unicode_tables.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

struct Span {
  size_t begin, end;
  bool is_match;
};

// Matches and what lies between them, in order.
std::vector<Span> Spans(size_t size, const std::vector<Regex::Match>& matches, bool invert) {
  std::vector<Span> spans;
  size_t done = 0;
  for (const Regex::Match& match : matches) {
    if (done != match.begin) {
      spans.push_back({done, match.begin, invert});
    }
    spans.push_back({match.begin, match.end, !invert});
    done = match.end;
  }
  if (done != size) {
    spans.push_back({done, size, invert});
  }
  return spans;
}

// Joins spans from the left: each is either added to the one before it or begins a new one.
template <typename Joins>
std::vector<Span> JoinSpans(const std::vector<Span>& spans, Joins joins) {
  std::vector<Span> joined;
  bool previous_match = false;
  for (const Span& span : spans) {
    if (!joined.empty() && joins(span.is_match, previous_match)) {
      joined.back().end = span.end;
    } else {
      joined.push_back(span);
    }
    previous_match = span.is_match;
  }
  return joined;
}

// The same from the right, where a match that is followed by no other match joins what follows.
std::vector<Span> JoinWithNext(const std::vector<Span>& spans) {
  std::vector<Span> joined;
  bool next_match = false;
  for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
    if (!joined.empty() && span->is_match && !next_match) {
      joined.back().begin = span->begin;
    } else {
      joined.push_back(*span);
    }
    next_match = span->is_match;
  }
  return {joined.rbegin(), joined.rend()};
}

void AppendSpans(const Word& word,
                 std::vector<Span> spans,
                 SplitBehavior behavior,
                 std::vector<Word>* out) {
  if (behavior == SplitBehavior::kMergedWithPrevious) {
    spans = JoinSpans(spans, [](bool match, bool previous) { return match && !previous; });
  } else if (behavior == SplitBehavior::kContiguous) {
    spans = JoinSpans(spans, [](bool match, bool previous) { return match == previous; });
  } else if (behavior == SplitBehavior::kMergedWithNext) {
    spans = JoinWithNext(spans);
  }
  for (const Span& span : spans) {
    if (span.end > span.begin && !(behavior == SplitBehavior::kRemoved && span.is_match)) {
      out->push_back(word.Sub(span.begin, span.end));
    }
  }
}

// The frequent case: nothing is removed or joined.
void AppendIsolated(const Word& word,
                    const std::vector<Regex::Match>& matches,
                    std::vector<Word>* out) {
  size_t done = 0;
  const auto append = [&](size_t end) {
    if (end > done) {
      out->push_back(word.Sub(done, end));
      done = end;
    }
  };
  for (const Regex::Match& match : matches) {
    append(match.begin);
    append(match.end);
  }
  append(word.text.size());
}

void AppendMatches(const Word& word,
                   const std::vector<Regex::Match>& matches,
                   SplitBehavior behavior,
                   bool invert,
                   std::vector<Word>* out) {
  if (matches.empty() && !invert) {
    out->push_back(word);
  } else if (behavior == SplitBehavior::kIsolated) {
    AppendIsolated(word, matches, out);
  } else {
    AppendSpans(word, Spans(word.text.size(), matches, invert), behavior, out);
  }
}

class SplitStage final : public PreTokenizerStage {
 public:
  SplitStage(Pattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  absl::Status Apply(const Word& word,
                     PreTokenizerScratch* scratch,
                     std::vector<Word>* out) const override {
    RETURN_IF_ERROR(pattern_.FindAll(word.text, &scratch->regex, &scratch->matches));
    AppendMatches(word, scratch->matches, behavior_, invert_, out);
    return absl::OkStatus();
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

class PropertyStage final : public PreTokenizerStage {
 public:
  PropertyStage(CharProperty property, SplitBehavior behavior)
      : property_(property), behavior_(behavior) {}

  absl::Status Apply(const Word& word,
                     PreTokenizerScratch* scratch,
                     std::vector<Word>* out) const override {
    const CharTable<uint16_t>& properties = CharProperties();
    scratch->matches.clear();
    for (size_t position = 0; position < word.text.size();) {
      const size_t begin = position;
      if (Has(properties[DecodeUtf8(word.text, &position)], property_)) {
        scratch->matches.push_back({begin, position});
      }
    }
    AppendMatches(word, scratch->matches, behavior_, /*invert=*/false, out);
    return absl::OkStatus();
  }

 private:
  CharProperty property_;
  SplitBehavior behavior_;
};

class WhitespaceStage final : public PreTokenizerStage {
 public:
  absl::Status Apply(const Word& word,
                     PreTokenizerScratch* /*scratch*/,
                     std::vector<Word>* out) const override {
    const CharTable<uint16_t>& properties = CharProperties();
    constexpr int kWord = 0, kSpace = 1, kOther = 2;
    size_t run_begin = 0;
    int run_kind = kSpace;
    const auto end_run = [&](size_t end) {
      if (run_kind != kSpace && end > run_begin) {
        out->push_back(word.Sub(run_begin, end));
      }
    };
    for (size_t position = 0; position < word.text.size();) {
      const size_t begin = position;
      const uint16_t is = properties[DecodeUtf8(word.text, &position)];
      const int kind = Has(is, kWordChar) ? kWord : Has(is, kSpaceChar) ? kSpace : kOther;
      if (kind != run_kind) {
        end_run(begin);
        run_begin = begin;
        run_kind = kind;
      }
    }
    end_run(word.text.size());
    return absl::OkStatus();
  }
};

class PrefixSpaceStage final : public PreTokenizerStage {
 public:
  absl::Status Apply(const Word& word,
                     PreTokenizerScratch* scratch,
                     std::vector<Word>* out) const override {
    if (word.text[0] == ' ') {
      out->push_back(word);
    } else {
      scratch->buffer.assign(1, ' ').append(word.text);
      out->push_back({scratch->arena.Store(scratch->buffer), word.head == 0 ? 0 : word.head + 1});
    }
    return absl::OkStatus();
  }
};

class ByteLevelStage final : public PreTokenizerStage {
 public:
  absl::Status Apply(const Word& word,
                     PreTokenizerScratch* scratch,
                     std::vector<Word>* out) const override {
    scratch->buffer.clear();
    AppendByteLevel(word.text.substr(0, word.head), &scratch->buffer);
    const size_t head = scratch->buffer.size();
    AppendByteLevel(word.text.substr(word.head), &scratch->buffer);
    out->push_back({scratch->arena.Store(scratch->buffer), head});
    return absl::OkStatus();
  }

  bool is_byte_level() const override { return true; }
};

class MetaspaceStage final : public PreTokenizerStage {
 public:
  MetaspaceStage(char32_t replacement, PrependScheme scheme, bool split)
      : scheme_(scheme), split_(split) {
    AppendUtf8(replacement, &replacement_);
  }

  absl::Status Apply(const Word& word,
                     PreTokenizerScratch* scratch,
                     std::vector<Word>* out) const override {
    const Word replaced = Replace(word, scratch);
    if (!split_) {
      out->push_back(replaced);
      return absl::OkStatus();
    }
    size_t begin = 0;
    while (begin < replaced.text.size()) {
      const size_t from = replaced.text.compare(begin, replacement_.size(), replacement_) == 0
                              ? begin + replacement_.size()
                              : begin;
      const size_t end = std::min(replaced.text.find(replacement_, from), replaced.text.size());
      out->push_back(replaced.Sub(begin, end));
      begin = end;
    }
    return absl::OkStatus();
  }

 private:
  Word Replace(const Word& word, PreTokenizerScratch* scratch) const {
    std::string& buffer = scratch->buffer;
    buffer.clear();
    const bool prepends =
        scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && word.head > 0);
    if (prepends && word.text[0] != ' ' && word.text.rfind(replacement_, 0) != 0) {
      buffer = replacement_;
    }
    if (buffer.empty() && word.text.find(' ') == std::string_view::npos) {
      return word;
    }
    size_t head = 0;
    for (size_t begin = 0; begin <= word.text.size();) {
      const size_t space = std::min(word.text.find(' ', begin), word.text.size());
      if (word.head > 0 && begin <= word.head) {
        head = buffer.size() + std::min(word.head, space) - begin +
               (word.head > space ? replacement_.size() : 0);
      }
      buffer.append(word.text.substr(begin, space - begin));
      if (space < word.text.size()) {
        buffer += replacement_;
      }
      begin = space + 1;
    }
    return {scratch->arena.Store(buffer), head};
  }

  std::string replacement_;
  PrependScheme scheme_;
  bool split_;
};

class FixedLengthStage final : public PreTokenizerStage {
 public:
  explicit FixedLengthStage(size_t num_characters) : num_characters_(num_characters) {}

  absl::Status Apply(const Word& word,
                     PreTokenizerScratch* /*scratch*/,
                     std::vector<Word>* out) const override {
    size_t begin = 0;
    size_t count = 0;
    for (size_t position = 0; position < word.text.size();) {
      position += Utf8Length(word.text[position]);
      if (++count == num_characters_ || position == word.text.size()) {
        out->push_back(word.Sub(begin, position));
        begin = position;
        count = 0;
      }
    }
    return absl::OkStatus();
  }

 private:
  size_t num_characters_;
};

constexpr uint8_t kAnyScript = 0;

// Numbers of scripts, where Chinese and Japanese are one and a space belongs to all.
const CharTable<uint8_t>& Scripts() {
  static const CharTable<uint8_t> table = [] {
    std::vector<uint8_t> values(kMaxCodePoint + 1);
    for (const CodePointRun& run : UnpackRuns(PackedScripts())) {
      std::fill(values.begin() + run.first,
                values.begin() + run.last + 1,
                static_cast<uint8_t>(run.value));
    }
    return CharTable<uint8_t>(values);
  }();
  return table;
}

class UnicodeScriptsStage final : public PreTokenizerStage {
 public:
  absl::Status Apply(const Word& word,
                     PreTokenizerScratch* /*scratch*/,
                     std::vector<Word>* out) const override {
    const CharTable<uint8_t>& scripts = Scripts();
    uint8_t last = kAnyScript;
    size_t begin = 0;
    for (size_t position = 0; position < word.text.size();) {
      const size_t here = position;
      const uint8_t script = scripts[DecodeUtf8(word.text, &position)];
      if (script != kAnyScript && script != last) {
        // What comes before the first script is dropped, as in the library.
        if (last != kAnyScript) {
          out->push_back(word.Sub(begin, here));
        }
        begin = here;
        last = script;
      }
    }
    if (last != kAnyScript) {
      out->push_back(word.Sub(begin, word.text.size()));
    }
    return absl::OkStatus();
  }
};

}  // namespace

PreTokenizerStagePtr MakeSplitStage(Pattern pattern, SplitBehavior behavior, bool invert) {
  return std::make_unique<SplitStage>(std::move(pattern), behavior, invert);
}

PreTokenizerStagePtr MakePropertyStage(CharProperty property, SplitBehavior behavior) {
  return std::make_unique<PropertyStage>(property, behavior);
}

PreTokenizerStagePtr MakeWhitespaceStage() {
  return std::make_unique<WhitespaceStage>();
}

PreTokenizerStagePtr MakePrefixSpaceStage() {
  return std::make_unique<PrefixSpaceStage>();
}

PreTokenizerStagePtr MakeByteLevelStage() {
  return std::make_unique<ByteLevelStage>();
}

PreTokenizerStagePtr MakeMetaspaceStage(char32_t replacement, PrependScheme scheme, bool split) {
  return std::make_unique<MetaspaceStage>(replacement, scheme, split);
}

PreTokenizerStagePtr MakeFixedLengthStage(size_t num_characters) {
  return std::make_unique<FixedLengthStage>(num_characters);
}

PreTokenizerStagePtr MakeUnicodeScriptsStage() {
  return std::make_unique<UnicodeScriptsStage>();
}

}  // namespace ringserve
