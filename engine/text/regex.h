// Split patterns of tokenizer.json, matched as Hugging Face matches them.
//
// A pattern looks at characters only through the sets that it names (\p{L}, [\r\n], a letter). So
// the text is first recoded, one byte per character: characters that are in the same sets get the
// same byte. PCRE2 then matches the bytes, with no notion of Unicode. What a letter is does thus
// not depend on the PCRE2 at hand (10.42 of Debian 12 lacks the 5,000 letters since Unicode 14), is
// exactly what Hugging Face's engine believes, and costs a table look-up.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/char_set.h"

struct pcre2_real_code_8;
struct pcre2_real_match_context_8;
struct pcre2_real_match_data_8;
struct pcre2_real_jit_stack_8;

namespace ringserve {

// Working memory of one thread; any regex may use it.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  void GrowJitStack();

  std::string classes_;
  pcre2_real_match_data_8* match_data_;
  pcre2_real_match_context_8* match_context_;
  pcre2_real_jit_stack_8* jit_stack_ = nullptr;  // null: 32 KiB of the thread's stack
};

class Regex {
 public:
  struct Match {
    size_t begin, end;  // bytes
  };

  // INVALID_ARGUMENT: not a pattern, or one that cannot be matched exactly (regex_parser.h).
  static absl::StatusOr<Regex> Compile(std::string_view pattern);

  // Replaces *matches by all matches from left to right that do not overlap; an empty match at the
  // end of the match before it does not count. `text` is valid UTF-8. RESOURCE_EXHAUSTED if the
  // pattern backtracks without end on it.
  absl::Status FindAll(std::string_view text,
                       RegexScratch* scratch,
                       std::vector<Match>* matches) const;

 private:
  struct FreeCode {
    void operator()(pcre2_real_code_8* code) const;
  };

  Regex() = default;
  // Returns for each set which classes are in it.
  std::vector<std::vector<uint8_t>> AssignClasses(const std::vector<CharSet>& sets, bool* too_many);
  absl::Status CompileSyntax(const std::string& syntax);

  uint8_t ClassOf(char32_t code_point) const {
    return pages_[static_cast<size_t>(page_of_[code_point >> 8]) << 8 | (code_point & 0xff)];
  }

  void Recode(std::string_view text, std::string* classes) const;
  absl::StatusOr<bool> MatchFrom(size_t start, RegexScratch* scratch) const;

  std::vector<uint16_t> page_of_;  // by code point / 256
  std::vector<uint8_t> pages_;     // 256 classes each
  std::unique_ptr<pcre2_real_code_8, FreeCode> code_;
  bool jit_ = false;
};

}  // namespace ringserve
