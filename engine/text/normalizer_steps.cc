#include "engine/text/normalizer_steps.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "engine/text/byte_level.h"
#include "engine/text/char_property.h"

namespace ringserve {
namespace {

// Keeps, drops or replaces characters one by one, as the library's filter and map do.
// map(code_point) returns the new one, or kDropped.
constexpr char32_t kDropped = 0xffffffff;

template <typename Map>
void MapCharacters(NormalizedText* text, Map map) {
  const std::string_view old = text->text;
  std::string out;
  out.reserve(old.size());
  size_t removed_first = 0;  // bytes dropped before the first that stays
  size_t head_bytes = 0;     // the first that stays, in the result
  for (size_t position = 0; position < old.size();) {
    const size_t begin = position;
    const char32_t c = map(DecodeUtf8(old, &position));
    if (c == kDropped) {
      continue;
    }
    const bool is_first = out.empty();
    AppendUtf8(c, &out);
    if (is_first) {
      removed_first = begin;
      head_bytes = out.size();
    }
  }
  text->head = text->first && removed_first < text->head ? head_bytes : 0;
  text->text = std::move(out);
}

absl::Status TooLong(size_t max_bytes) {
  return absl::ResourceExhaustedError(
      fmt::format("text: more than {} bytes when it is normalized", max_bytes));
}

class NormalFormStep final : public NormalizerStep {
 public:
  explicit NormalFormStep(NormalForm form) : form_(form) {}

  absl::Status Apply(NormalizedText* text, RegexScratch* /*scratch*/) const override {
    const size_t head = Normalize(form_, std::string_view(text->text).substr(0, text->head)).size();
    text->text = Normalize(form_, text->text);
    // A composition may have taken more characters into the first one.
    text->head = text->head == 0 ? 0 : std::max(head, FirstHead(text->text));
    return absl::OkStatus();
  }

 private:
  NormalForm form_;
};

class LowercaseStep final : public NormalizerStep {
 public:
  absl::Status Apply(NormalizedText* text, RegexScratch* /*scratch*/) const override {
    text->head = ToLower(std::string_view(text->text).substr(0, text->head)).size();
    text->text = ToLower(text->text);
    return absl::OkStatus();
  }
};

class StripStep final : public NormalizerStep {
 public:
  StripStep(bool left, bool right) : left_(left), right_(right) {}

  absl::Status Apply(NormalizedText* text, RegexScratch* /*scratch*/) const override {
    const CharTable<uint16_t>& properties = CharProperties();
    const std::string_view old = text->text;
    size_t begin = 0;
    for (size_t next = 0; left_ && next < old.size(); begin = next) {
      if (!Has(properties[DecodeUtf8(old, &next)], kSpaceChar)) {
        break;
      }
    }
    size_t end = old.size();
    while (right_ && end > begin) {
      size_t start = end - 1;
      while ((static_cast<uint8_t>(old[start]) & 0xc0) == 0x80) {
        --start;
      }
      size_t next = start;
      if (!Has(properties[DecodeUtf8(old, &next)], kSpaceChar)) {
        break;
      }
      end = start;
    }
    text->head = text->head > begin ? std::min(text->head, end) - begin : 0;
    text->text = std::string(old.substr(begin, end - begin));
    return absl::OkStatus();
  }

 private:
  bool left_, right_;
};

class StripAccentsStep final : public NormalizerStep {
 public:
  absl::Status Apply(NormalizedText* text, RegexScratch* /*scratch*/) const override {
    const CharTable<uint16_t>& properties = CharProperties();
    MapCharacters(text, [&](char32_t c) {
      return c >= 0x80 && Has(properties[c], kCombiningMarkChar) ? kDropped : c;
    });
    return absl::OkStatus();
  }
};

char32_t Nmt(char32_t c) {
  if ((c >= 0x1 && c <= 0x8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f ||
      c == 0x9f) {
    return kDropped;
  }
  const bool space = c == 0x9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
                     (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                     c == 0xfeff || c == 0xfffd;
  return space ? ' ' : c;
}

class NmtStep final : public NormalizerStep {
 public:
  absl::Status Apply(NormalizedText* text, RegexScratch* /*scratch*/) const override {
    MapCharacters(text, Nmt);
    return absl::OkStatus();
  }
};

class ByteLevelStep final : public NormalizerStep {
 public:
  absl::Status Apply(NormalizedText* text, RegexScratch* /*scratch*/) const override {
    std::string out;
    AppendByteLevel(std::string_view(text->text).substr(0, text->head), &out);
    const size_t head = out.size();
    AppendByteLevel(std::string_view(text->text).substr(text->head), &out);
    text->text = std::move(out);
    text->head = head;
    return absl::OkStatus();
  }
};

class PrependStep final : public NormalizerStep {
 public:
  explicit PrependStep(std::string prefix) : prefix_(std::move(prefix)) {}

  absl::Status Apply(NormalizedText* text, RegexScratch* /*scratch*/) const override {
    if (!text->text.empty()) {
      text->text.insert(0, prefix_);
      text->head += text->head == 0 ? 0 : prefix_.size();
    }
    return absl::OkStatus();
  }

 private:
  std::string prefix_;
};

class ReplaceStep final : public NormalizerStep {
 public:
  ReplaceStep(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  absl::Status Apply(NormalizedText* text, RegexScratch* scratch) const override {
    std::vector<Regex::Match> matches;
    RETURN_IF_ERROR(pattern_.FindAll(text->text, scratch, &matches));
    if (matches.empty()) {
      return absl::OkStatus();
    }
    const size_t max_bytes = MaxNormalizedBytes(text->text.size());
    if (matches.size() * content_.size() > max_bytes) {
      return TooLong(max_bytes);
    }
    const std::string_view old = text->text;
    std::string out;
    size_t head = 0;
    bool in_head = text->first;
    size_t done = 0;
    const auto keep = [&](size_t end) {
      if (in_head && end > done) {
        head += std::min(std::max(text->head, done), end) - done;
        in_head = end <= text->head;
      }
      out.append(old.substr(done, end - done));
    };
    for (const Regex::Match& match : matches) {
      keep(match.begin);
      // Takes the offset of the byte before the match's end.
      in_head = in_head && (content_.empty() || match.end == 0 || match.end - 1 < text->head);
      head += in_head ? content_.size() : 0;
      out += content_;
      done = match.end;
    }
    keep(old.size());
    text->text = std::move(out);
    text->head = head;
    return absl::OkStatus();
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class PrecompiledStep final : public NormalizerStep {
 public:
  explicit PrecompiledStep(Charsmap charsmap) : charsmap_(std::move(charsmap)) {}

  absl::Status Apply(NormalizedText* text, RegexScratch* /*scratch*/) const override {
    std::string out;
    out.reserve(text->text.size());
    HeadTracker tracker(*text, 0);
    const size_t max_bytes = MaxNormalizedBytes(text->text.size());
    bool too_long = false;
    charsmap_.ForEachEdit(text->text, [&](const Charsmap::Edit& edit) {
      too_long = too_long || out.size() + edit.replacement.size() > max_bytes;
      if (too_long) {
        return;
      }
      out += edit.replacement;
      const auto removed = std::string_view(text->text).substr(edit.begin, edit.end - edit.begin);
      Track(edit.replacement, edit.replaced ? removed : edit.replacement, &tracker);
    });
    if (too_long) {
      return TooLong(max_bytes);
    }
    text->text = std::move(out);
    text->head = tracker.head();
    return absl::OkStatus();
  }

 private:
  static int CountCharacters(std::string_view text) {
    return static_cast<int>(std::count_if(
        text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; }));
  }

  // The library says "inserted" of most characters of a longer replacement, and of a removal
  // nothing: so do the offsets that follow from it.
  static void Track(std::string_view added, std::string_view removed, HeadTracker* tracker) {
    if (!tracker->tracking()) {
      return;
    }
    int change = CountCharacters(added) - CountCharacters(removed);
    for (size_t position = 0, index = 0; position < added.size(); ++index) {
      const size_t length = Utf8Length(added[position]);
      tracker->Add(length, index == 0 ? change : 1);
      position += length;
    }
  }

  Charsmap charsmap_;
};

class BertStep final : public NormalizerStep {
 public:
  explicit BertStep(const BertOptions& options) : options_(options) {}

  absl::Status Apply(NormalizedText* text, RegexScratch* /*scratch*/) const override {
    const CharTable<uint16_t>& properties = CharProperties();
    if (options_.clean_text) {
      MapCharacters(text, [&](char32_t c) -> char32_t {
        const uint16_t is = properties[c];
        return Has(is, kControlChar) ? kDropped : Has(is, kSpaceChar) ? ' ' : c;
      });
    }
    if (options_.handle_chinese_chars) {
      SetIdeographsApart(text);
    }
    if (options_.strip_accents) {
      text->text = Normalize(NormalForm::kNfd, text->text);
      text->head = text->head == 0 ? 0 : std::max(text->head, FirstHead(text->text));
      MapCharacters(text, [&](char32_t c) {
        return c >= 0x80 && Has(properties[c], kNonspacingChar) ? kDropped : c;
      });
    }
    if (options_.lowercase) {
      text->head = ToLower(std::string_view(text->text).substr(0, text->head)).size();
      text->text = ToLower(text->text);
    }
    return absl::OkStatus();
  }

 private:
  static void SetIdeographsApart(NormalizedText* text) {
    const CharTable<uint16_t>& properties = CharProperties();
    const std::string_view old = text->text;
    std::string out;
    out.reserve(old.size());
    for (size_t position = 0; position < old.size();) {
      const size_t begin = position;
      if (static_cast<uint8_t>(old[begin]) < 0x80) {
        out.push_back(old[position++]);
        continue;
      }
      const bool apart = Has(properties[DecodeUtf8(old, &position)], kIdeographChar);
      out.append(apart ? " " : "").append(old.substr(begin, position - begin));
      out.append(apart ? " " : "");
      if (apart && begin == 0 && text->head > 0) {
        text->head += 2;
      }
    }
    text->text = std::move(out);
  }

  BertOptions options_;
};

}  // namespace

NormalizerStepPtr MakeNormalFormStep(NormalForm form) {
  return std::make_unique<NormalFormStep>(form);
}

NormalizerStepPtr MakeLowercaseStep() {
  return std::make_unique<LowercaseStep>();
}

NormalizerStepPtr MakeStripStep(bool left, bool right) {
  return std::make_unique<StripStep>(left, right);
}

NormalizerStepPtr MakeStripAccentsStep() {
  return std::make_unique<StripAccentsStep>();
}

NormalizerStepPtr MakeNmtStep() {
  return std::make_unique<NmtStep>();
}

NormalizerStepPtr MakeByteLevelStep() {
  return std::make_unique<ByteLevelStep>();
}

NormalizerStepPtr MakePrependStep(std::string prefix) {
  return std::make_unique<PrependStep>(std::move(prefix));
}

NormalizerStepPtr MakeReplaceStep(Pattern pattern, std::string content) {
  return std::make_unique<ReplaceStep>(std::move(pattern), std::move(content));
}

NormalizerStepPtr MakePrecompiledStep(Charsmap charsmap) {
  return std::make_unique<PrecompiledStep>(std::move(charsmap));
}

NormalizerStepPtr MakeBertStep(const BertOptions& options) {
  return std::make_unique<BertStep>(options);
}

}  // namespace ringserve
