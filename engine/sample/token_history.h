// Which tokens a request has seen, for the penalties: O(1) per token, O(distinct tokens) to walk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <absl/container/flat_hash_map.h>

namespace ringserve {

class TokenHistory {
 public:
  struct Entry {
    int32_t token_id = 0;
    int64_t output_count = 0;  // 0: only in the prompt
  };

  void AddPrompt(std::span<const int32_t> token_ids) {
    for (const int32_t token_id : token_ids) {
      Find(token_id);
    }
  }

  void AddOutput(int32_t token_id) { ++Find(token_id).output_count; }

  bool Has(int32_t token_id) const { return index_.contains(token_id); }

  // Each token once, in the order of first sight.
  std::span<const Entry> entries() const { return entries_; }

 private:
  Entry& Find(int32_t token_id) {
    const auto [found, is_new] = index_.try_emplace(token_id, entries_.size());
    if (is_new) {
      entries_.push_back({token_id, 0});
    }
    return entries_[found->second];
  }

  absl::flat_hash_map<int32_t, size_t> index_;
  std::vector<Entry> entries_;
};

}  // namespace ringserve
