#include "engine/text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "engine/base/check.h"
#include "engine/text/bpe_key.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

uint32_t HashOf(std::string_view word) {
  return static_cast<uint32_t>(std::hash<std::string_view>{}(word));
}

size_t TableSize(size_t num_entries) {
  return std::bit_ceil(num_entries * 2 + 1);
}

constexpr uint64_t kNoJoint = ~uint64_t{0};

void InsertKey(uint64_t key, std::vector<uint64_t>* table) {
  const size_t mask = table->size() - 1;
  size_t slot = HashOfKey(key) & mask;
  while ((*table)[slot] != kNoJoint && (*table)[slot] != key) {
    slot = (slot + 1) & mask;
  }
  (*table)[slot] = key;
}

}  // namespace

Bpe::Bpe(BpeModel model) : model_(std::move(model)), id_of_byte_(256, -1) {
  AddMerges();
  if (model_.by_character) {
    AddSymbolTables();
    AddBorders();
  } else {
    for (const BpeToken& token : model_.tokens) {
      if (token.text.size() == 1) {
        id_of_byte_[static_cast<uint8_t>(token.text[0])] = token.id;
      }
    }
  }
  AddWholeWords();
}

void Bpe::AddMerges() {
  pairs_.resize(TableSize(model_.merges.size()));
  const size_t mask = pairs_.size() - 1;
  for (size_t rank = 0; rank < model_.merges.size(); ++rank) {
    const BpeMerge& merge = model_.merges[rank];
    const uint64_t key = KeyOf(merge.left, merge.right);
    size_t slot = HashOfKey(key) & mask;
    while (pairs_[slot].rank >= 0 && pairs_[slot].key != key) {
      slot = (slot + 1) & mask;
    }
    pairs_[slot] = {key, static_cast<int32_t>(rank), merge.result};
  }
}

void Bpe::AddWholeWords() {
  words_.resize(TableSize(model_.tokens.size()));
  const bool decorated = !model_.continuing_prefix.empty() || !model_.end_suffix.empty();
  if (decorated && !model_.ignore_merges) {
    return;
  }
  const size_t mask = words_.size() - 1;
  ModelScratch scratch;
  std::vector<int32_t> ids;
  for (size_t i = 0; i < model_.tokens.size(); ++i) {
    const BpeToken& token = model_.tokens[i];
    if (!model_.ignore_merges) {
      ids.clear();
      EncodeByMerging(token.text, &scratch, &ids);
      if (ids.size() != 1 || ids[0] != token.id) {
        continue;
      }
    }
    const uint32_t hash = HashOf(token.text);
    size_t slot = hash & mask;
    while (words_[slot].token >= 0) {
      slot = (slot + 1) & mask;
    }
    words_[slot] = {hash, static_cast<int32_t>(i)};
    max_word_bytes_ = std::max(max_word_bytes_, token.text.size());
  }
}

Bpe::Symbols Bpe::MakeSymbols(std::string_view prefix, std::string_view suffix) const {
  std::vector<int32_t> ids(kMaxCodePoint + 1, -1);
  for (const BpeToken& token : model_.tokens) {
    std::string_view text = token.text;
    if (text.size() <= prefix.size() + suffix.size() || text.rfind(prefix, 0) != 0 ||
        text.substr(text.size() - suffix.size()) != suffix) {
      continue;
    }
    text.remove_prefix(prefix.size());
    text.remove_suffix(suffix.size());
    if (Utf8Length(text[0]) == text.size()) {
      size_t position = 0;
      ids[DecodeUtf8(text, &position)] = token.id;
    }
  }
  return std::make_unique<CharTable<int32_t>>(ids);
}

void Bpe::AddSymbolTables() {
  for (const bool inside : {false, true}) {
    for (const bool last : {false, true}) {
      std::string_view prefix;
      std::string_view suffix;
      if (inside) {
        prefix = model_.continuing_prefix;
      }
      if (last) {
        suffix = model_.end_suffix;
      }
      if ((prefix.empty() && inside) || (suffix.empty() && last)) {
        continue;  // the same as without
      }
      symbols_[inside ? 1 : 0][last ? 1 : 0] = MakeSymbols(prefix, suffix);
    }
  }
}

// SentencePiece's vocabularies come without a pre-tokenizer: a text is one word. But most
// neighbours never merge: a space begins most tokens and is inside of few. If no merge has a left
// side that ends in the symbol x and a right side that begins with y, then nothing ever merges
// across xy, and what is on either side can be merged by itself: short and fast. The joints are the
// pairs xy across which something may merge.
void Bpe::AddBorders() {
  int32_t num_ids = model_.unk_id + 1;
  for (const BpeToken& token : model_.tokens) {
    num_ids = std::max(num_ids, token.id + 1);
  }
  // By id: the symbols that a token begins and ends with, -1 if no way to it is known.
  std::vector<int32_t> first(static_cast<size_t>(num_ids), -1);
  std::vector<int32_t> last(static_cast<size_t>(num_ids), -1);
  for (const int32_t id : SymbolIds()) {
    first[static_cast<size_t>(id)] = last[static_cast<size_t>(id)] = id;
  }
  // Each round goes one step further where merges are not in the order of their making.
  constexpr int kMaxRounds = 32;
  bool changed = true;
  for (int round = 0; changed && round < kMaxRounds; ++round) {
    changed = false;
    for (const BpeMerge& merge : model_.merges) {
      const int32_t new_first = first[static_cast<size_t>(merge.left)];
      const int32_t new_last = last[static_cast<size_t>(merge.right)];
      if (new_first < 0 || new_last < 0) {
        continue;
      }
      int32_t& old_first = first[static_cast<size_t>(merge.result)];
      int32_t& old_last = last[static_cast<size_t>(merge.result)];
      changed = changed || old_first < 0;
      if (old_first >= 0 && (old_first != new_first || old_last != new_last)) {
        return;  // not one answer
      }
      old_first = new_first;
      old_last = new_last;
    }
  }
  if (changed) {
    return;
  }
  std::vector<uint64_t> joints(TableSize(model_.merges.size()), kNoJoint);
  for (const BpeMerge& merge : model_.merges) {
    const int32_t left = last[static_cast<size_t>(merge.left)];
    const int32_t right = first[static_cast<size_t>(merge.right)];
    if (left >= 0 && right >= 0) {
      InsertKey(KeyOf(left, right), &joints);
    }
  }
  joints_ = std::move(joints);
}

std::vector<int32_t> Bpe::SymbolIds() const {
  std::vector<int32_t> ids = model_.byte_ids;
  ids.push_back(model_.unk_id);
  for (const auto& by_place : symbols_) {
    for (const Symbols& symbols : by_place) {
      for (char32_t c = 0; symbols != nullptr && c <= kMaxCodePoint; ++c) {
        ids.push_back((*symbols)[c]);
      }
    }
  }
  std::erase(ids, -1);
  return ids;
}

bool Bpe::MayJoin(int32_t left, int32_t right) const {
  const uint64_t key = KeyOf(left, right);
  const size_t mask = joints_.size() - 1;
  for (size_t slot = HashOfKey(key) & mask; joints_[slot] != kNoJoint; slot = (slot + 1) & mask) {
    if (joints_[slot] == key) {
      return true;
    }
  }
  return false;
}

int32_t Bpe::FindWord(std::string_view word) const {
  if (word.size() > max_word_bytes_) {
    return -1;
  }
  const uint32_t hash = HashOf(word);
  const size_t mask = words_.size() - 1;
  for (size_t slot = hash & mask; words_[slot].token >= 0; slot = (slot + 1) & mask) {
    const BpeToken& token = model_.tokens[static_cast<size_t>(words_[slot].token)];
    if (words_[slot].hash == hash && token.text == word) {
      return token.id;
    }
  }
  return -1;
}

void Bpe::Encode(std::string_view word, ModelScratch* scratch, std::vector<int32_t>* out) const {
  RS_DCHECK(word.size() <= kMaxWordBytes);
  if (const int32_t id = FindWord(word); id >= 0) {
    out->push_back(id);
  } else {
    EncodeByMerging(word, scratch, out);
  }
}

void Bpe::EncodeByMerging(std::string_view word,
                          ModelScratch* scratch,
                          std::vector<int32_t>* out) const {
  std::vector<int32_t>& ids = scratch->ids;
  ids.clear();
  if (model_.by_character) {
    AddCharacterSymbols(word, &ids);
  } else {
    AddByteSymbols(word, &ids);
  }
  for (size_t begin = 0; begin < ids.size();) {
    size_t end = ids.size();
    if (!joints_.empty()) {
      end = begin + 1;
      while (end < ids.size() && MayJoin(ids[end - 1], ids[end])) {
        ++end;
      }
    }
    int32_t* piece = ids.data() + begin;
    const size_t count = end - begin <= kShortWord ? MergeShort(piece, end - begin)
                                                   : MergeLong(piece, end - begin, scratch);
    out->insert(out->end(), piece, piece + count);
    begin = end;
  }
}

void Bpe::AddByteSymbols(std::string_view word, std::vector<int32_t>* ids) const {
  bool after_unk = false;
  for (const char byte : word) {
    const int32_t id = id_of_byte_[static_cast<uint8_t>(byte)];
    if (id >= 0) {
      ids->push_back(id);
    } else if (model_.unk_id >= 0 && !(after_unk && model_.fuse_unk)) {
      ids->push_back(model_.unk_id);
    }
    after_unk = id < 0;
  }
}

// As in the library an unk waits for the next character that has a token, and so comes after the
// bytes of characters in between.
void Bpe::AddCharacterSymbols(std::string_view word, std::vector<int32_t>* ids) const {
  bool unk_waits = false;
  for (size_t position = 0; position < word.size();) {
    const size_t begin = position;
    const char32_t c = DecodeUtf8(word, &position);
    const bool inside = begin > 0 && !model_.continuing_prefix.empty();
    const bool last = position == word.size() && !model_.end_suffix.empty();
    const int32_t id = (*symbols_[inside ? 1 : 0][last ? 1 : 0])[c];
    if (id >= 0) {
      if (unk_waits) {
        ids->push_back(model_.unk_id);
        unk_waits = false;
      }
      ids->push_back(id);
      continue;
    }
    if (!model_.byte_ids.empty()) {
      std::string text(inside ? model_.continuing_prefix : "");
      text.append(word.substr(begin, position - begin)).append(last ? model_.end_suffix : "");
      if (AddFallback(text, ids)) {
        continue;
      }
    }
    if (model_.unk_id >= 0) {
      if (unk_waits && !model_.fuse_unk) {
        ids->push_back(model_.unk_id);
      }
      unk_waits = true;
    }
  }
  if (unk_waits) {
    ids->push_back(model_.unk_id);
  }
}

// False, and nothing added, if not all bytes have tokens.
bool Bpe::AddFallback(std::string_view text, std::vector<int32_t>* ids) const {
  const size_t before = ids->size();
  for (const char byte : text) {
    const int32_t id = model_.byte_ids[static_cast<uint8_t>(byte)];
    if (id < 0) {
      ids->resize(before);
      return false;
    }
    ids->push_back(id);
  }
  return true;
}

}  // namespace ringserve
