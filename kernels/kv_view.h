// Where keys and values lie: the layout of a block, and a view of one layer over a pool of blocks.
//
// A block holds K and V of block_size consecutive tokens for every layer of one window group, in
// one contiguous piece. Inside, per layer and KV head, K (and V) is one [block_size, head_dim]
// plane:
//   block = [layer][K planes of all KV heads | V planes of all KV heads]
// Planes begin on 128 bytes, so that a block is a key tile, a TMA box and a run of cache lines.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/types.h"

namespace ringserve {

struct KvLayout {
  int32_t block_size = 0;  // tokens
  int32_t num_layers = 0;  // of this window group
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  DType dtype = DType::kBf16;

  constexpr int64_t plane_bytes() const {
    return RoundUp<int64_t>(int64_t{block_size} * head_dim * DTypeBytes(dtype), 128);
  }

  constexpr int64_t layer_bytes() const { return 2 * plane_bytes() * num_kv_heads; }

  constexpr int64_t block_bytes() const { return layer_bytes() * num_layers; }
};

// One layer's keys and values. `pool` is the first byte of block 0; blocks follow without gaps.
struct KvView {
  std::byte* pool = nullptr;
  KvLayout layout;
  int32_t layer = 0;  // within the window group

  std::byte* Keys(int32_t block, int32_t kv_head) const {
    return pool + block * layout.block_bytes() + layer * layout.layer_bytes() +
           kv_head * layout.plane_bytes();
  }

  std::byte* Values(int32_t block, int32_t kv_head) const {
    return Keys(block, kv_head) + layout.num_kv_heads * layout.plane_bytes();
  }
};

}  // namespace ringserve
