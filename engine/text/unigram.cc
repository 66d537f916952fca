#include "engine/text/unigram.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "engine/text/byte_token.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

constexpr double kUnkPenalty = 10.0;

}  // namespace

Unigram::Unigram(const UnigramVocab& vocab)
    : unk_id_(vocab.unk_id), byte_fallback_(vocab.byte_fallback) {
  byte_ids_.fill(-1);
  std::vector<VocabTrie::Entry> entries;
  double min_score = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    const UnigramVocab::Token& token = vocab.tokens[i];
    const auto id = static_cast<int32_t>(i);
    entries.emplace_back(token.text, id);
    scores_.push_back(token.score);
    min_score = std::min(min_score, token.score);
    if (const std::optional<uint8_t> byte = ByteOfToken(token.text, false)) {
      byte_ids_[*byte] = id;
    }
  }
  unk_score_ = min_score - kUnkPenalty;
  trie_ = VocabTrie(std::move(entries));
}

void Unigram::FindBestPath(std::string_view word, std::vector<ModelScratch::Path>* paths) const {
  paths->assign(word.size() + 1, {0.0, -1, 0});
  for (size_t start = 0; start < word.size();) {
    const double score_here = (*paths)[start].score;
    const size_t character_bytes = Utf8Length(word[start]);
    bool has_character = false;
    const auto offer = [&](size_t length, int32_t id, double token_score) {
      ModelScratch::Path& path = (*paths)[start + length];
      const double score = token_score + score_here;
      if (path.start < 0 || score > path.score) {
        path = {score, static_cast<int32_t>(start), id};
      }
    };
    trie_.ForEachPrefix(word.substr(start), [&](size_t length, int32_t id) {
      offer(length, id, scores_[static_cast<size_t>(id)]);
      has_character = has_character || length == character_bytes;
    });
    if (!has_character) {
      offer(character_bytes, unk_id_, unk_score_);
    }
    start += character_bytes;
  }
}

// Text that several unknown tokens cover: one unk, unless it is a token after all.
void Unigram::AppendUnknown(std::string_view text, std::vector<int32_t>* out) const {
  if (const int32_t id = trie_.Find(text); id >= 0) {
    out->push_back(id);
    return;
  }
  const bool falls_back = byte_fallback_ && std::all_of(text.begin(), text.end(), [&](char c) {
                            return byte_ids_[static_cast<uint8_t>(c)] >= 0;
                          });
  if (!falls_back) {
    out->push_back(unk_id_);
    return;
  }
  for (const char c : text) {
    out->push_back(byte_ids_[static_cast<uint8_t>(c)]);
  }
}

void Unigram::Encode(std::string_view word,
                     ModelScratch* scratch,
                     std::vector<int32_t>* out) const {
  FindBestPath(word, &scratch->paths);
  // The path from its end: (end, id) of each token.
  auto& steps = scratch->heap;
  steps.clear();
  for (auto end = static_cast<int32_t>(word.size()); end > 0;) {
    const ModelScratch::Path& path = scratch->paths[static_cast<size_t>(end)];
    steps.emplace_back(end, path.id);
    end = path.start;
  }
  size_t begin = 0;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    if (step->second != unk_id_) {
      out->push_back(step->second);
    } else {
      while (std::next(step) != steps.rend() && std::next(step)->second == unk_id_) {
        ++step;
      }
      AppendUnknown(word.substr(begin, static_cast<size_t>(step->first) - begin), out);
    }
    begin = static_cast<size_t>(step->first);
  }
}

}  // namespace ringserve
