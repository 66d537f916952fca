// The model of tokenizer.json: encodes one word.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace ringserve {

// Working memory of one thread.
struct ModelScratch {
  std::vector<int32_t> ids;
  std::vector<int32_t> previous, next;            // of a symbol, by place in the word
  std::vector<std::pair<int32_t, int32_t>> heap;  // (rank, place), least first

  struct Path {
    double score;   // of the best encoding of the text up to here
    int32_t start;  // where its last token starts; -1: none ends here
    int32_t id;
  };

  std::vector<Path> paths;  // by byte
};

class TextModel {
 public:
  virtual ~TextModel() = default;
  // Appends the tokens of `word`: UTF-8 of at most kMaxWordBytes, or any bytes where the model's
  // vocabulary is of bytes. Any number of threads, each with its scratch.
  virtual void Encode(std::string_view word,
                      ModelScratch* scratch,
                      std::vector<int32_t>* out) const = 0;
};

inline constexpr size_t kMaxWordBytes = size_t{1} << 30;

}  // namespace ringserve
