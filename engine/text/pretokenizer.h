// The pre_tokenizer of tokenizer.json: cuts a text into the words that BPE then encodes one by one.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/base/status.h"
#include "engine/text/regex.h"

namespace ringserve {

class PreTokenizer {
 public:
  // What becomes of a match and of what lies between matches.
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

  struct Scratch {
    std::vector<std::string_view> words;  // the result of Split
    std::vector<std::string_view> next;
    std::vector<Regex::Match> matches;
    std::deque<std::string> owned;  // words that are not a part of the text
    RegexScratch regex;
  };

  // ByteLevel, or a Sequence of Splits that ends in ByteLevel. INVALID_ARGUMENT names the path.
  static absl::StatusOr<PreTokenizer> FromJson(const nlohmann::json& value,
                                               const std::string& path);

  // Sets scratch->words to the words of `text` (valid UTF-8, not empty); they live as long as the
  // text and until the next call.
  absl::Status Split(std::string_view text, Scratch* scratch) const;

 private:
  struct Stage {
    bool add_prefix_space = false;  // then there is no pattern
    std::vector<Regex> regex;       // one, or none: `literal`
    std::string literal;
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;
  };

  absl::Status Add(const nlohmann::json& value, const std::string& path, bool is_last);
  absl::Status AddSplit(const nlohmann::json& value, const std::string& path);
  absl::Status AddByteLevel(const nlohmann::json& value, const std::string& path);
  static absl::Status RunStage(const Stage& stage, Scratch* scratch);

  std::vector<Stage> stages_;
};

}  // namespace ringserve
