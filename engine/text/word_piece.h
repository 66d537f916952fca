// WordPiece: from left to right the longest token that fits; and WordLevel: whole words only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/text_model.h"
#include "engine/text/vocab_trie.h"

namespace ringserve {

class WordPiece final : public TextModel {
 public:
  // Tokens that begin with `continuing_prefix` stand for what follows it inside a word. A word that
  // cannot be cut into tokens, or has more than `max_word_chars` characters, becomes unk_id.
  WordPiece(const std::vector<VocabTrie::Entry>& vocab,
            std::string_view continuing_prefix,
            size_t max_word_chars,
            int32_t unk_id);

  // O(n times the length of the longest token).
  void Encode(std::string_view word,
              ModelScratch* scratch,
              std::vector<int32_t>* out) const override;

 private:
  VocabTrie starting_;
  VocabTrie continuing_;  // without the prefix
  size_t max_word_chars_;
  int32_t unk_id_;
};

class WordLevel final : public TextModel {
 public:
  WordLevel(std::vector<VocabTrie::Entry> vocab, int32_t unk_id);
  void Encode(std::string_view word,
              ModelScratch* scratch,
              std::vector<int32_t>* out) const override;

 private:
  VocabTrie words_;
  int32_t unk_id_;
};

}  // namespace ringserve
