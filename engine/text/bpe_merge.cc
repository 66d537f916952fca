#include <algorithm>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "engine/text/bpe.h"
#include "engine/text/bpe_key.h"

namespace ringserve {

const Bpe::Pair* Bpe::FindMerge(int32_t left, int32_t right) const {
  const uint64_t key = KeyOf(left, right);
  const size_t mask = pairs_.size() - 1;
  for (size_t slot = HashOfKey(key) & mask; pairs_[slot].rank >= 0; slot = (slot + 1) & mask) {
    if (pairs_[slot].key == key) {
      return &pairs_[slot];
    }
  }
  return nullptr;
}

size_t Bpe::MergeShort(int32_t* ids, size_t count) const {
  constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
  int32_t ranks[kShortWord];
  const auto rank_at = [&](size_t i) {
    const Pair* pair = i + 1 < count ? FindMerge(ids[i], ids[i + 1]) : nullptr;
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
    ids[best] = model_.merges[static_cast<size_t>(ranks[best])].result;
    std::copy(ids + best + 2, ids + count, ids + best + 1);
    std::copy(ranks + best + 2, ranks + count, ranks + best + 1);
    --count;
    ranks[best] = rank_at(best);
    if (best > 0) {
      ranks[best - 1] = rank_at(best - 1);
    }
  }
  return count;
}

size_t Bpe::MergeLong(int32_t* ids, size_t num_ids, ModelScratch* scratch) const {
  auto& heap = scratch->heap;
  const auto count = static_cast<int32_t>(num_ids);
  scratch->previous.resize(num_ids);
  scratch->next.resize(num_ids);
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
  return static_cast<size_t>(std::remove(ids, ids + num_ids, -1) - ids);
}

}  // namespace ringserve
