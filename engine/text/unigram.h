// The Unigram model: of all ways to cut a word into tokens the one with the highest sum of scores.
// As in the library: sums in double from left to right; of equal sums the one whose last token
// starts first.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/text_model.h"
#include "engine/text/vocab_trie.h"

namespace ringserve {

struct UnigramVocab {
  struct Token {
    std::string text;
    double score;
  };

  std::vector<Token> tokens;   // by id; of equal texts the last counts
  int32_t unk_id = 0;          // one of them
  bool byte_fallback = false;  // unknown text becomes tokens <0x00> to <0xFF> if all are there
};

class Unigram final : public TextModel {
 public:
  explicit Unigram(const UnigramVocab& vocab);

  // O(n times the length of the longest token).
  void Encode(std::string_view word,
              ModelScratch* scratch,
              std::vector<int32_t>* out) const override;

 private:
  void FindBestPath(std::string_view word, std::vector<ModelScratch::Path>* paths) const;
  void AppendUnknown(std::string_view text, std::vector<int32_t>* out) const;

  VocabTrie trie_;
  std::vector<double> scores_;  // by id
  double unk_score_;            // for one character
  int32_t unk_id_;
  bool byte_fallback_;
  std::array<int32_t, 256> byte_ids_;  // of <0x00> to <0xFF>, or -1
};

}  // namespace ringserve
