// Turns the rows and blocks of a step into the list of attention tiles that the kernels execute
// (kernels/tile_plan.h says what the list means). Pure: the result depends on the arguments alone.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "kernels/tile_plan.h"

namespace ringserve {

// What one model and one device fix for all steps. Only causal, window and split_size can change
// the bits of a result.
struct TileOptions {
  int32_t num_heads = 0;  // a multiple of num_kv_heads
  int32_t num_kv_heads = 0;
  int32_t tile_size = 64;      // query rows and keys of a tile, >= 1; a tile never leaves its block
  int32_t head_tile_size = 0;  // most query heads of one KV head in an item; 0: all of its group
  std::optional<TileOrder> order = std::nullopt;  // empty: chosen for each sequence
  bool causal = true;                             // false: every row sees all of its entries' keys
  int64_t window = kNoWindow;                     // >= 1
  int64_t split_size = 1024;                      // keys, >= 1
  // An empty `order` makes a sequence of at most this many rows K-major: its splits then run in
  // parallel, and rows of several sequences meet over shared blocks. With more rows Q-major moves
  // fewer bytes, for it writes no partial results.
  int32_t k_major_rows = 1;
  int32_t num_workers = 1;  // threads or SMs; head tiles shrink until all have Q-major work
};

// A step, as its rows lie in memory. Sequences own disjoint rows that cover [0, num_rows) in order;
// each has at least one row. The entries of a sequence are in ascending position, sinks first, and
// hold at least every row's own position, where attention is causal.
struct TileStep {
  std::span<const TileSequence> sequences;
  std::span<const BlockEntry> entries;
};

// Replaces `plan`, whose capacity is reused: steps of one shape allocate nothing for it.
void PlanTiles(const TileStep& step, const TileOptions& options, TilePlan& plan);

// The most partial results of any step with at most max_rows rows in at most max_sequences
// sequences, each over at most max_keys keys: what TilePlan::num_partials never exceeds.
int64_t MaxPartials(const TileOptions& options,
                    int64_t max_rows,
                    int64_t max_sequences,
                    int64_t max_keys);

}  // namespace ringserve
