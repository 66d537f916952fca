#include "engine/text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "engine/base/check.h"

namespace ringserve {
namespace {

// Up to this many symbols a scan for the lowest rank is faster than a heap.
constexpr size_t kShortWord = 32;

uint64_t KeyOf(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

size_t HashOf(uint64_t key) {
  key *= 0x9e3779b97f4a7c15;
  return static_cast<size_t>(key ^ key >> 32);
}

uint32_t HashOf(std::string_view word) {
  return static_cast<uint32_t>(std::hash<std::string_view>{}(word));
}

size_t TableSize(size_t num_entries) {
  return std::bit_ceil(num_entries * 2 + 1);
}

}  // namespace

Bpe::Bpe(BpeModel model) : model_(std::move(model)), id_of_byte_(256, -1) {
  for (const BpeToken& token : model_.tokens) {
    if (token.bytes.size() == 1) {
      id_of_byte_[static_cast<uint8_t>(token.bytes[0])] = token.id;
    }
  }
  AddMerges();
  AddWholeWords();
}

void Bpe::AddMerges() {
  pairs_.resize(TableSize(model_.merges.size()));
  const size_t mask = pairs_.size() - 1;
  for (size_t rank = 0; rank < model_.merges.size(); ++rank) {
    const BpeMerge& merge = model_.merges[rank];
    const uint64_t key = KeyOf(merge.left, merge.right);
    size_t slot = HashOf(key) & mask;
    while (pairs_[slot].rank >= 0 && pairs_[slot].key != key) {
      slot = (slot + 1) & mask;
    }
    pairs_[slot] = {key, static_cast<int32_t>(rank), merge.result};
  }
}

void Bpe::AddWholeWords() {
  words_.resize(TableSize(model_.tokens.size()));
  const size_t mask = words_.size() - 1;
  Scratch scratch;
  std::vector<int32_t> ids;
  for (size_t i = 0; i < model_.tokens.size(); ++i) {
    const BpeToken& token = model_.tokens[i];
    if (!model_.ignore_merges) {
      ids.clear();
      EncodeByMerging(token.bytes, &scratch, &ids);
      if (ids.size() != 1 || ids[0] != token.id) {
        continue;
      }
    }
    const uint32_t hash = HashOf(token.bytes);
    size_t slot = hash & mask;
    while (words_[slot].token >= 0) {
      slot = (slot + 1) & mask;
    }
    words_[slot] = {hash, static_cast<int32_t>(i)};
  }
}

const Bpe::Pair* Bpe::FindMerge(int32_t left, int32_t right) const {
  const uint64_t key = KeyOf(left, right);
  const size_t mask = pairs_.size() - 1;
  for (size_t slot = HashOf(key) & mask; pairs_[slot].rank >= 0; slot = (slot + 1) & mask) {
    if (pairs_[slot].key == key) {
      return &pairs_[slot];
    }
  }
  return nullptr;
}

int32_t Bpe::FindWord(std::string_view word) const {
  const uint32_t hash = HashOf(word);
  const size_t mask = words_.size() - 1;
  for (size_t slot = hash & mask; words_[slot].token >= 0; slot = (slot + 1) & mask) {
    const BpeToken& token = model_.tokens[static_cast<size_t>(words_[slot].token)];
    if (words_[slot].hash == hash && token.bytes == word) {
      return token.id;
    }
  }
  return -1;
}

void Bpe::Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* out) const {
  RS_DCHECK(word.size() <= size_t{1} << 30);
  if (const int32_t id = FindWord(word); id >= 0) {
    out->push_back(id);
  } else {
    EncodeByMerging(word, scratch, out);
  }
}

void Bpe::EncodeByMerging(std::string_view word,
                          Scratch* scratch,
                          std::vector<int32_t>* out) const {
  scratch->ids.clear();
  AddSymbols(word, &scratch->ids);
  if (scratch->ids.size() <= kShortWord) {
    MergeShort(&scratch->ids);
  } else {
    MergeLong(scratch);
  }
  out->insert(out->end(), scratch->ids.begin(), scratch->ids.end());
}

void Bpe::AddSymbols(std::string_view word, std::vector<int32_t>* ids) const {
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

void Bpe::MergeShort(std::vector<int32_t>* ids) const {
  constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
  int32_t ranks[kShortWord];
  size_t count = ids->size();
  const auto rank_at = [&](size_t i) {
    const Pair* pair = i + 1 < count ? FindMerge((*ids)[i], (*ids)[i + 1]) : nullptr;
    return pair == nullptr ? kNone : pair->rank;
  };
  for (size_t i = 0; i < count; ++i) {
    ranks[i] = rank_at(i);
  }
  while (count > 1) {
    const auto best = static_cast<size_t>(std::min_element(ranks, ranks + count) - ranks);
    if (ranks[best] == kNone) {
      break;
    }
    (*ids)[best] = model_.merges[static_cast<size_t>(ranks[best])].result;
    ids->erase(ids->begin() + static_cast<std::ptrdiff_t>(best) + 1);
    std::copy(ranks + best + 2, ranks + count, ranks + best + 1);
    --count;
    ranks[best] = rank_at(best);
    if (best > 0) {
      ranks[best - 1] = rank_at(best - 1);
    }
  }
}

void Bpe::MergeLong(Scratch* scratch) const {
  std::vector<int32_t>& ids = scratch->ids;
  auto& heap = scratch->heap;
  const auto count = static_cast<int32_t>(ids.size());
  scratch->previous.resize(ids.size());
  scratch->next.resize(ids.size());
  heap.clear();
  const auto id_at = [&](int32_t place) -> int32_t& { return ids[static_cast<size_t>(place)]; };
  const auto previous = [&](int32_t place) -> int32_t& {
    return scratch->previous[static_cast<size_t>(place)];
  };
  const auto next = [&](int32_t place) -> int32_t& {
    return scratch->next[static_cast<size_t>(place)];
  };
  const auto push = [&](int32_t place) {
    if (place >= 0 && next(place) < count) {
      if (const Pair* pair = FindMerge(id_at(place), id_at(next(place)))) {
        heap.emplace_back(pair->rank, place);
        std::push_heap(heap.begin(), heap.end(), std::greater<>());
      }
    }
  };
  for (int32_t i = 0; i < count; ++i) {
    previous(i) = i - 1;
    next(i) = i + 1;
  }
  for (int32_t i = 0; i < count; ++i) {
    push(i);
  }
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto [rank, place] = heap.back();
    heap.pop_back();
    // The pair may be gone: one of the two has merged with another since.
    if (id_at(place) < 0 || next(place) >= count) {
      continue;
    }
    const int32_t right = next(place);
    const Pair* pair = FindMerge(id_at(place), id_at(right));
    if (pair == nullptr || pair->rank != rank) {
      continue;
    }
    id_at(place) = pair->result;
    id_at(right) = -1;
    next(place) = next(right);
    if (next(place) < count) {
      previous(next(place)) = place;
    }
    push(previous(place));
    push(place);
  }
  std::erase(ids, -1);
}

}  // namespace ringserve
