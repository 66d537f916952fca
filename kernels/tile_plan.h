// The list of attention tiles of one step: what the host planned (engine/plan/tile_planner) and the
// kernels execute. Plain data without owners or sessions, built once a step and used by every layer
// of a window group.
//
// Coordinates. Rows are the step's query rows, [0, num_rows), each belonging to one sequence and
// standing at a position of that sequence's text. Keys are reached through block entries: entry e
// says which pool block holds the positions [position, position + num_keys) of a sequence.
//
// Determinism. Which keys meet in one partial result depends on absolute key positions alone: keys
// are split at multiples of `split_size` (sinks are a split of their own, before the others), a
// tile never crosses a split, tiles of a split run in ascending position, and partial results of a
// row are folded one by one in ascending position, skipping splits in which the row sees nothing.
// Where the folding happens does not matter: inside an item that holds several splits, or in a
// merge of several items' results. A row's result is therefore the same bits whatever else is in
// the step.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace ringserve {

inline constexpr int64_t kNoWindow = std::numeric_limits<int64_t>::max();

// A block of one sequence's context. Entries of a sequence are in ascending position.
struct BlockEntry {
  int32_t block = 0;     // index in the pool
  int32_t num_keys = 0;  // keys written in it (block_size but for the last block and for sinks)
  int64_t position =
      0;  // of its first key; for a sink entry, the position its first key is rotated to
  // Sink keys lie in the pool before rotation: row `sink_angle_row` + j of AttentionArgs::angles
  // rotates key j. -1: an ordinary entry, stored rotated.
  int32_t sink_angle_row = -1;
};

struct TileSequence {
  int32_t first_row = 0;
  int32_t num_rows = 0;
  int64_t first_position = 0;  // of its first row; row r stands at first_position + r
  int32_t first_entry = 0;
  int32_t num_entries = 0;
};

enum class TileKind : uint8_t {
  kDense,     // every key is visible to every row of the item: no mask arithmetic
  kTriangle,  // cut by the diagonal or a window edge: row at p sees the keys in (p - window, p]
};            // skip tiles (wholly in the future or outside the window) are never emitted

// Keys [first_key, first_key + num_keys) counted from the start of entry `entry`; all in that
// block. Position of key j: entries[entry].position + first_key + j.
struct Tile {
  int32_t entry = 0;
  int32_t first_key = 0;
  int32_t num_keys = 0;
  TileKind kind = TileKind::kDense;
};

enum class TileOrder : uint8_t {
  kQMajor,  // a query tile stays, key tiles stream past it (prefill)
  kKMajor,  // a key tile stays, all rows that may see it pass (decode; sequences that share blocks)
};

// Query rows of one sequence inside an item.
struct RowRange {
  int32_t sequence = 0;
  int32_t first_row = 0;
  int32_t num_rows = 0;
};

// One unit of work for a thread block or a CPU thread: some rows x the query heads of a head tile
// against a run of tiles of one KV head. Every row of the item runs all its tiles in order. An item
// holds whole splits; it holds several only if they are the first of its rows, since folding goes
// from the first split on.
struct WorkItem {
  int32_t first_range = 0;  // into row_ranges; Q-major items have exactly one
  int32_t num_ranges = 0;
  int32_t kv_head = 0;
  int32_t first_head =
      0;  // query heads [first_head, first_head + num_heads), all of kv_head's group
  int32_t num_heads = 0;
  int32_t first_tile = 0;  // into tiles
  int32_t num_tiles = 0;
  TileOrder order = TileOrder::kQMajor;
  // -1: the item holds all splits of its rows and writes `out`. Otherwise the index of the item's
  // first partial result; row i (counted over the ranges) and head h of the item (counted from
  // first_head) own partial first_partial + i * num_heads + h.
  int64_t first_partial = -1;
  int64_t cost = 0;  // bytes of K and V plus row work, in arbitrary units, for balancing
};

// The partial results of `num_rows` rows of one head tile, to be folded in the order listed.
struct MergeItem {
  int32_t first_row = 0;
  int32_t num_rows = 0;
  int32_t first_head = 0;
  int32_t num_heads = 0;
  int32_t first_source = 0;  // into merge_sources: where the rows' partials begin, one per item
  int32_t num_sources = 0;
};

struct TileCounts {
  int64_t dense = 0;
  int64_t triangle = 0;
  int64_t skip = 0;         // tiles of the full rows x keys grid that were not emitted
  int64_t block_loads = 0;  // times that a block's plane pair is read
};

struct TilePlan {
  int32_t num_rows = 0;
  // False: a row sees every key of its sequence, wherever both stand; then all tiles are dense.
  bool causal = true;
  int64_t window = kNoWindow;
  int64_t split_size = 0;  // keys; > 0
  std::vector<TileSequence> sequences;
  std::vector<BlockEntry> entries;
  std::vector<Tile> tiles;
  std::vector<RowRange> row_ranges;
  std::vector<WorkItem> items;  // longest first
  std::vector<MergeItem> merges;
  std::vector<int64_t>
      merge_sources;         // partial index of row 0, head 0 of the merge item in each item
  int64_t num_partials = 0;  // each head_dim + 2 floats of workspace: sum, maximum, unscaled out
  TileCounts counts;         // per KV head group and head tile
};

}  // namespace ringserve
