#include "engine/text/word_piece.h"

#include <algorithm>
#include <utility>

namespace ringserve {

WordPiece::WordPiece(const std::vector<VocabTrie::Entry>& vocab,
                     std::string_view continuing_prefix,
                     size_t max_word_chars,
                     int32_t unk_id)
    : starting_(vocab), max_word_chars_(max_word_chars), unk_id_(unk_id) {
  std::vector<VocabTrie::Entry> continuing;
  for (const auto& [text, id] : vocab) {
    if (text.rfind(continuing_prefix, 0) == 0) {
      continuing.emplace_back(text.substr(continuing_prefix.size()), id);
    }
  }
  continuing_ = VocabTrie(std::move(continuing));
}

void WordPiece::Encode(std::string_view word,
                       ModelScratch* /*scratch*/,
                       std::vector<int32_t>* out) const {
  const auto num_chars = std::count_if(
      word.begin(), word.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; });
  const size_t before = out->size();
  bool known = static_cast<size_t>(num_chars) <= max_word_chars_;
  for (size_t start = 0; known && start < word.size();) {
    const auto [id, length] = (start == 0 ? starting_ : continuing_).Longest(word.substr(start));
    known = id >= 0;
    out->push_back(id);
    start += length;
  }
  if (!known) {
    out->resize(before);
    out->push_back(unk_id_);
  }
}

WordLevel::WordLevel(std::vector<VocabTrie::Entry> vocab, int32_t unk_id)
    : words_(std::move(vocab)), unk_id_(unk_id) {}

void WordLevel::Encode(std::string_view word,
                       ModelScratch* /*scratch*/,
                       std::vector<int32_t>* out) const {
  const int32_t id = words_.Find(word);
  out->push_back(id >= 0 ? id : unk_id_);
}

}  // namespace ringserve
