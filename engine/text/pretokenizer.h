// The pre_tokenizer of tokenizer.json: cuts a text into the words that the model then encodes one
// by one.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/problems.h"
#include "engine/base/status.h"
#include "engine/text/regex.h"

namespace ringserve {

struct Word {
  std::string_view text;
  size_t head;  // so many bytes at its start stem from the start of the text (normalized_text.h)

  Word Sub(size_t begin, size_t end) const {
    return {text.substr(begin, end - begin), head > begin ? std::min(head, end) - begin : 0};
  }
};

// Texts of words that are not a part of the text they come from. Stored ones do not move.
class WordArena {
 public:
  std::string_view Store(std::string_view text);
  void Clear();

 private:
  std::vector<std::unique_ptr<char[]>> blocks_;
  std::vector<std::unique_ptr<char[]>> large_;
  size_t used_ = 0;   // blocks before the last are full
  size_t place_ = 0;  // in the last
};

struct PreTokenizerScratch {
  std::vector<Word> words;  // the result of Split
  std::vector<Word> next;
  std::vector<Regex::Match> matches;
  std::string buffer;
  WordArena arena;
  RegexScratch regex;
};

class PreTokenizerStage {
 public:
  virtual ~PreTokenizerStage() = default;
  // Appends what becomes of `word`, which is not empty; no empty words. RESOURCE_EXHAUSTED if a
  // pattern gives up (regex.h).
  virtual absl::Status Apply(const Word& word,
                             PreTokenizerScratch* scratch,
                             std::vector<Word>* out) const = 0;

  // Whether it writes words in the byte-level alphabet, and does nothing else.
  virtual bool is_byte_level() const { return false; }
};

class PreTokenizer {
 public:
  using Scratch = PreTokenizerScratch;

  // Any of the library's types; null makes one word of the text. What is wrong is added to
  // `problems`, by its path; the result is then of no use.
  static PreTokenizer FromJson(const nlohmann::json& value,
                               const std::string& path,
                               Problems* problems);

  // If the last stage only writes words in the byte-level alphabet: removes it and returns true.
  // The caller then encodes plain bytes.
  bool TakeByteLevel();

  // Sets scratch->words to the words of `text` (valid UTF-8, not empty); they live as long as the
  // text and until the next call.
  absl::Status Split(const Word& text, Scratch* scratch) const;

 private:
  void Add(const nlohmann::json& value, const std::string& path, int depth, Problems* problems);

  std::vector<std::unique_ptr<const PreTokenizerStage>> stages_;
};

}  // namespace ringserve
