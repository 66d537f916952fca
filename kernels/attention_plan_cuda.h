// A TilePlan as the CUDA attention kernels read it: fixed-size items in 32-bit coordinates. The
// lower level chooses its own shapes here: a decode item has at most kDecodeRows (rows x heads), a
// prefill item at most kPrefillRows, key tiles are kTile keys long whatever the planner's tile is.
// None of that touches the bits of a result (attention_rules_cuda.cuh).
//
// Most items suit every kernel. Those with sinks, and those whose rows belong to several sequences
// that share the keys, are listed apart, for the general kernels.
//
// Keys and rows of an item are counted from its base, the absolute position of its first key tile,
// a multiple of the tile. Key x lies in block
// blocks[first_block + (x + base_in_block) / block_size].
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kv_view.h"
#include "kernels/tile_plan.h"

namespace ringserve::cuda {

inline constexpr int32_t kDecodeRows = 16;    // of one mma.m16n8k16
inline constexpr int32_t kPrefillRows = 128;  // two warpgroups of 64
inline constexpr int32_t kMaxRowTiles = 16;   // of AttentionPlanView::row_tiles

// Keys of a tile: as many as leave room for the scores beside the output in registers.
constexpr int32_t TileKeys(int32_t head_dim) {
  return head_dim > 128 ? 64 : 128;
}

struct alignas(16) AttentionItem {
  int32_t first_row;
  int32_t num_rows;
  int32_t first_head;
  int32_t num_heads;
  int32_t kv_head;
  int32_t first_block;  // of the base; entries before key_begin's block are never read
  int32_t num_tiles;    // >= 1, or 0 beside sinks
  int32_t key_begin;    // keys [key_begin, key_end) exist and may be read
  int32_t key_end;
  int32_t row_position;  // row i sees keys in (row_position + i - window, row_position + i]
  int32_t dense_begin;   // tiles [dense_begin, dense_end): every row sees every key
  int32_t dense_end;
  int32_t tiles_to_split;  // tiles before the first boundary of a split
  int32_t base_in_block;   // of the base: its block may begin before it
  int32_t first_partial;   // -1: writes `out`; else row i, head h own first_partial +
  int32_t partial_stride;  //     i * partial_stride + h
  int32_t merge;           // that the partial results go to; -1: none
  int32_t old_keys;        // keys before it were there before this step
  int32_t text_position;   // of first_row, for biases by distance
  // General items. Row i is rows[first_listed + i] of the step, and every row sees every key; -1:
  // row first_row + i.
  int32_t first_listed;
  // Keys [0, num_sinks) of pool block sink_block come before the others, as a split of their own
  // that every row sees; key j is rotated by row sink_angle_row + j of the angles. 0: none.
  int32_t num_sinks;
  int32_t sink_block;
  int32_t sink_angle_row;
  int32_t unused;
};

static_assert(sizeof(AttentionItem) == 96);

// A row of a step that an item lists, and where it stands, counted from the item's base.
struct ListedRow {
  int32_t row;
  int32_t text_position;
};

struct AttentionMerge {
  int32_t first_row;
  int32_t num_rows;
  int32_t first_head;
  int32_t num_heads;
  int32_t first_source;
  int32_t num_sources;
  int32_t source_offset;
  int32_t partial_stride;

  // Row i and head h of a merge, packed as i * num_heads + h, are this far from a source's partial.
  constexpr int32_t PartialOffset(int32_t packed_row) const {
    return source_offset + packed_row / num_heads * partial_stride + packed_row % num_heads;
  }
};

struct AttentionPlanShape {
  KvLayout layout;
  int32_t num_heads = 0;
};

// Host side. Vectors keep their capacity from step to step.
struct PackedAttentionPlan {
  std::vector<AttentionItem> decode;   // longest first
  std::vector<AttentionItem> prefill;  // in batches whose keys fit in the L2, longest first in each
  std::vector<AttentionItem> general_decode;
  std::vector<AttentionItem> general_prefill;
  std::vector<AttentionMerge> merges;
  std::vector<int32_t> sources;
  std::vector<int32_t> blocks;
  std::vector<ListedRow> rows;  // of items with first_listed >= 0
  int32_t merge_rows = 0;       // most rows x heads of a merge
  int32_t merge_sources = 0;    // most sources of one
  int32_t prefill_heads = 0;    // most heads of a prefill item
  int32_t tiles_per_split = 0;
  int64_t num_partials = 0;
  int32_t window = 0;
  bool has_sinks = false;
};

// Null on success, else a static sentence that names what the kernels cannot run.
[[nodiscard]] const char* PackAttentionPlan(const TilePlan& plan,
                                            const AttentionPlanShape& shape,
                                            PackedAttentionPlan& packed);

// The plan in device memory: one piece, sections at 64-byte boundaries.
struct AttentionPlanView {
  const AttentionItem* decode = nullptr;
  const AttentionItem* prefill = nullptr;
  const AttentionItem* general_decode = nullptr;
  const AttentionItem* general_prefill = nullptr;
  const AttentionMerge* merges = nullptr;
  const int32_t* sources = nullptr;
  const int32_t* blocks = nullptr;
  const ListedRow* rows = nullptr;
  int32_t num_decode = 0;
  int32_t num_prefill = 0;
  int32_t num_general_decode = 0;
  int32_t num_general_prefill = 0;
  int32_t num_merges = 0;
  int32_t merge_rows = 0;
  int32_t merge_sources = 0;
  int32_t prefill_heads = 0;
  int32_t tiles_per_split = 0;
  int32_t window = 0;
  int64_t num_partials = 0;
  bool has_sinks = false;
  // Most tiles of an item, if the plan is of one row whose own key is the last of every item, of at
  // most kMaxRowTiles tiles, without sinks or partial results; else 0.
  int32_t row_tiles = 0;
  // Items that end with their row's own key, if every item is of one row and none is general or for
  // prefill; else 0.
  int32_t own_keys = 0;
};

int64_t PackedBytes(const PackedAttentionPlan& packed);

// Writes the sections to `to` (PackedBytes long, host) and returns the view they make at `device`.
AttentionPlanView WritePlan(const PackedAttentionPlan& packed,
                            std::byte* to,
                            const std::byte* device);

}  // namespace ringserve::cuda
