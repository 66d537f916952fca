// Which full blocks hold the beginning of which text: a tree per scope, one block of tokens per
// edge. Texts that begin alike share blocks instead of computing them again.
//
// A block is found by the tokens themselves: the hash only leads to candidates, which are compared
// token by token on the way down from the root, so that a collision is a miss and never another
// text's block. Scopes share nothing and cannot be seen from one another.
//
// The cache keeps blocks without owning them (BlockPool): a block that no session refers to any
// more stays findable until the pool needs it, the least recently used one first. Blocks that are
// in here are immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/cache/block_pool.h"

namespace ringserve {

// One thread. `pool` must outlive the cache.
class PrefixCache {
 public:
  // Becomes the reclaimer of `pool`.
  PrefixCache(int32_t block_size, BlockPool& pool);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // Adds to `blocks` those that hold the longest known beginning of `token_ids`, whole blocks only;
  // the caller becomes an owner of each. They count as used just now.
  void Find(const std::string& scope,
            std::span<const int32_t> token_ids,
            std::vector<int32_t>& blocks);

  // Remembers that blocks[i] holds token_ids [i * block_size, (i + 1) * block_size) of a text that
  // begins with token_ids. The caller owns the blocks. Of two blocks with equal contents the first
  // stays. Requires token_ids.size() >= blocks.size() * block_size.
  void Insert(const std::string& scope,
              std::span<const int32_t> token_ids,
              std::span<const int32_t> blocks);

  int64_t num_blocks() const { return static_cast<int64_t>(used_.size()); }

  // Since the start: blocks that lost their place to others.
  int64_t num_evicted() const { return num_evicted_; }

 private:
  struct Node {
    Node* parent = nullptr;  // null: the root of a scope
    int32_t block = -1;      // of a root: -1
    uint64_t serial = 0;     // distinct
    uint64_t hash = 0;
    std::string scope;               // of a root
    std::vector<int32_t> token_ids;  // of this block; of a root: none
    int64_t num_children = 0;
    std::list<Node*>::iterator use;  // place in used_
  };

  static uint64_t HashOf(const Node* parent, std::span<const int32_t> token_ids);
  Node* Child(const Node* parent, std::span<const int32_t> token_ids) const;
  // `node` and what leads to it are the last to be evicted.
  void Touch(Node* node);
  // Frees a block that nobody owns; the pool has one.
  void Reclaim();
  // Forgets the node; nobody can find what lies below it either.
  void Remove(Node* node);
  void RemoveOne(Node* node);
  static int64_t DepthOf(const Node* node);

  const size_t block_size_;
  BlockPool& pool_;
  std::unordered_map<std::string, std::unique_ptr<Node>> roots_;
  std::unordered_multimap<uint64_t, std::unique_ptr<Node>> nodes_;  // by hash
  std::list<Node*> used_;  // least recently used first; a node lies after all below it
  uint64_t next_serial_ = 0;
  int64_t num_evicted_ = 0;
};

}  // namespace ringserve
