#include "engine/cache/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace ringserve {

PrefixCache::PrefixCache(int32_t block_size, BlockPool& pool)
    : block_size_(static_cast<size_t>(block_size)), pool_(pool) {
  pool_.set_reclaimer([this] { Reclaim(); });
}

PrefixCache::~PrefixCache() {
  for (Node* const node : used_) {
    pool_.SetCached(node->block, false);
  }
  pool_.set_reclaimer(nullptr);
}

void PrefixCache::Find(const std::string& scope,
                       std::span<const int32_t> token_ids,
                       std::vector<int32_t>& blocks) {
  const auto root = roots_.find(scope);
  if (root == roots_.end()) {
    return;
  }
  Node* node = root->second.get();
  while (token_ids.size() >= block_size_) {
    Node* const child = Child(node, token_ids.first(block_size_));
    if (child == nullptr) {
      break;
    }
    pool_.AddOwner(child->block);
    blocks.push_back(child->block);
    token_ids = token_ids.subspan(block_size_);
    node = child;
  }
  Touch(node);
}

void PrefixCache::Insert(const std::string& scope,
                         std::span<const int32_t> token_ids,
                         std::span<const int32_t> blocks) {
  if (blocks.empty()) {
    return;
  }
  RS_CHECK(token_ids.size() >= blocks.size() * block_size_);
  std::unique_ptr<Node>& root = roots_[scope];
  if (root == nullptr) {
    root = std::make_unique<Node>();
    root->serial = next_serial_++;
    root->scope = scope;
  }
  Node* node = root.get();
  for (const int32_t block : blocks) {
    const std::span<const int32_t> ids = token_ids.first(block_size_);
    token_ids = token_ids.subspan(block_size_);
    Node* child = Child(node, ids);
    if (child == nullptr) {
      if (pool_.is_cached(block)) {
        break;  // known as the end of another beginning: a block lies in one place of the tree
      }
      auto added = std::make_unique<Node>();
      child = added.get();
      child->serial = next_serial_++;
      child->parent = node;
      child->block = block;
      child->hash = HashOf(node, ids);
      child->token_ids.assign(ids.begin(), ids.end());
      child->use = used_.insert(used_.end(), child);
      ++node->num_children;
      pool_.SetCached(block, true);
      nodes_.emplace(child->hash, std::move(added));
    }
    node = child;
  }
  Touch(node);
  if (root->num_children == 0) {
    roots_.erase(scope);
  }
}

uint64_t PrefixCache::HashOf(const Node* parent, std::span<const int32_t> token_ids) {
  uint64_t hash = parent->serial;
  for (const int32_t token_id : token_ids) {
    hash = (hash ^ static_cast<uint32_t>(token_id)) * 0x9e3779b97f4a7c15U;
    hash ^= hash >> 29;
  }
  return hash;
}

PrefixCache::Node* PrefixCache::Child(const Node* parent,
                                      std::span<const int32_t> token_ids) const {
  const auto [begin, end] = nodes_.equal_range(HashOf(parent, token_ids));
  for (auto at = begin; at != end; ++at) {
    Node* const node = at->second.get();
    if (node->parent == parent && std::ranges::equal(node->token_ids, token_ids)) {
      return node;
    }
  }
  return nullptr;
}

void PrefixCache::Touch(Node* node) {
  for (; node->parent != nullptr; node = node->parent) {
    used_.splice(used_.end(), used_, node->use);
  }
}

void PrefixCache::Reclaim() {
  // Each owned block that is passed counts as used now, so that the next call need not pass it.
  for (size_t left = used_.size(); left > 0; --left) {
    Node* const node = used_.front();
    if (pool_.num_owners(node->block) == 0) {
      Remove(node);
      return;
    }
    used_.splice(used_.end(), used_, node->use);
  }
  RS_CHECK(false);
}

void PrefixCache::Remove(Node* node) {
  if (node->num_children > 0) {
    // Rare: the window of every owner moved past this block and not past what follows.
    std::vector<Node*> below;
    for (Node* const other : used_) {
      const Node* above = other->parent;
      while (above != nullptr && above != node) {
        above = above->parent;
      }
      if (above == node) {
        below.push_back(other);
      }
    }
    // Of two nodes on one path the deeper one first.
    std::sort(below.begin(), below.end(), [](const Node* a, const Node* b) {
      return DepthOf(a) > DepthOf(b);
    });
    for (Node* const other : below) {
      RemoveOne(other);
    }
  }
  RemoveOne(node);
}

int64_t PrefixCache::DepthOf(const Node* node) {
  int64_t depth = 0;
  for (; node->parent != nullptr; node = node->parent) {
    ++depth;
  }
  return depth;
}

void PrefixCache::RemoveOne(Node* node) {
  RS_CHECK(node->num_children == 0);
  pool_.SetCached(node->block, false);
  used_.erase(node->use);
  ++num_evicted_;
  Node* const parent = node->parent;
  --parent->num_children;
  const auto [begin, end] = nodes_.equal_range(node->hash);
  const auto found =
      std::find_if(begin, end, [node](const auto& entry) { return entry.second.get() == node; });
  RS_CHECK(found != end);
  nodes_.erase(found);
  if (parent->parent == nullptr && parent->num_children == 0) {
    roots_.erase(roots_.find(parent->scope));
  }
}

}  // namespace ringserve
