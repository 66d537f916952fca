#include "engine/plan/tile_planner.h"

#include <algorithm>
#include <span>
#include <tuple>
#include <vector>

#include "engine/base/check.h"
#include "kernels/types.h"

namespace ringserve {
namespace {

// Tiles that the rows of one query tile see: all of them (Q-major) or those of one split.
struct Run {
  RowRange range;
  TileOrder order = TileOrder::kQMajor;
  int32_t first_tile = 0;  // into Planner::tiles_
  int32_t num_tiles = 0;   // 0: joined to the run before
  int32_t query_tile = 0;
  bool dense = true;
  // K-major runs over the same keys form a list, in ascending order, and become one item.
  bool leads = true;
  int32_t next_equal = -1;
  // Where its partial results are, known when its items are emitted: head tile h's begin at
  // first_partial + item_rows * (first head of h), and this run's rows there at row_in_item.
  int64_t first_partial = -1;
  int32_t row_in_item = 0;
  int32_t item_rows = 0;
};

class Planner {
 public:
  Planner(const TileStep& step, const TileOptions& options, TilePlan& plan)
      : options_(options), plan_(plan) {
    plan.num_rows = 0;
    plan.causal = options.causal;
    plan.window = options.window;
    plan.split_size = options.split_size;
    plan.sequences.assign(step.sequences.begin(), step.sequences.end());
    plan.entries.assign(step.entries.begin(), step.entries.end());
    plan.tiles.clear();
    plan.row_ranges.clear();
    plan.items.clear();
    plan.merges.clear();
    plan.merge_sources.clear();
    plan.num_partials = 0;
    plan.counts = {};
  }

  void Plan() {
    for (size_t s = 0; s < plan_.sequences.size(); ++s) {
      CutSequence(static_cast<int32_t>(s));
    }
    ShareKeys();
    JoinSinks();
    num_runs_.resize(num_query_tiles_);
    for (const Run& run : runs_) {
      num_runs_[run.query_tile] += run.num_tiles > 0 ? 1 : 0;
    }
    ChooseHeadTiles();
    for (size_t r = 0; r < runs_.size(); ++r) {
      if (runs_[r].leads && runs_[r].num_tiles > 0) {
        EmitItems(static_cast<int32_t>(r));
      }
    }
    for (size_t r = 0; r < runs_.size();) {
      r = EmitMerges(r);
    }
    std::sort(plan_.items.begin(), plan_.items.end(), [](const WorkItem& a, const WorkItem& b) {
      if (a.cost != b.cost) {
        return a.cost > b.cost;
      }
      return a.first_range != b.first_range ? a.first_range < b.first_range
                                            : a.first_head < b.first_head;
    });
  }

 private:
  void CutSequence(int32_t s);
  void CutQueryTile(const TileSequence& sequence, const RowRange& range, TileOrder order);
  void CutEntry(int32_t entry, int64_t first_position, int64_t last_position);
  void AddRun(const RowRange& range, TileOrder order, int32_t first_tile);
  int64_t SplitOf(const Tile& tile) const;
  int CompareTiles(const Run& a, const Run& b) const;
  void ShareKeys();
  void JoinSinks();
  void ChooseHeadTiles();
  void EmitItems(int32_t leader);
  size_t EmitMerges(size_t first_run);

  const TileOptions& options_;
  TilePlan& plan_;
  std::vector<Tile> tiles_;
  std::vector<Run> runs_;
  std::vector<int32_t> shareable_;  // runs that may share an item
  std::vector<int32_t> num_runs_;   // of each query tile
  int32_t num_query_tiles_ = 0;
  int32_t head_tile_[2] = {0, 0};  // query heads of an item, by TileOrder
};

void Planner::CutSequence(int32_t s) {
  const TileSequence& sequence = plan_.sequences[s];
  RS_CHECK(sequence.num_rows >= 1);
  RS_CHECK(sequence.first_row == plan_.num_rows);
  plan_.num_rows += sequence.num_rows;
  const TileOrder order = options_.order.value_or(
      sequence.num_rows <= options_.k_major_rows ? TileOrder::kKMajor : TileOrder::kQMajor);
  // Query tiles begin at multiples of tile_size, as key tiles do: the diagonal then cuts one tile
  // of each.
  for (int32_t row = 0; row < sequence.num_rows;) {
    const int64_t position = sequence.first_position + row;
    const int64_t room = options_.tile_size - position % options_.tile_size;
    const auto num_rows = static_cast<int32_t>(std::min<int64_t>(room, sequence.num_rows - row));
    CutQueryTile(sequence, {s, sequence.first_row + row, num_rows}, order);
    row += num_rows;
  }
}

void Planner::CutQueryTile(const TileSequence& sequence, const RowRange& range, TileOrder order) {
  const int64_t first_position = sequence.first_position + (range.first_row - sequence.first_row);
  const int64_t last_position = first_position + range.num_rows - 1;
  const auto first_tile = static_cast<int32_t>(tiles_.size());
  for (int32_t e = 0; e < sequence.num_entries; ++e) {
    CutEntry(sequence.first_entry + e, first_position, last_position);
  }
  RS_CHECK(static_cast<size_t>(first_tile) < tiles_.size());
  AddRun(range, order, first_tile);
  ++num_query_tiles_;
}

// Appends the tiles of an entry that rows at [first_position, last_position] see, trimmed to the
// keys that one of them sees.
void Planner::CutEntry(int32_t entry, int64_t first_position, int64_t last_position) {
  const BlockEntry& block = plan_.entries[entry];
  const bool sink = block.sink_angle_row >= 0;
  const int64_t window = options_.window;
  int64_t piece_end = 0;
  for (int64_t key = 0; key < block.num_keys; key = piece_end) {
    const int64_t position = block.position + key;
    piece_end =
        std::min<int64_t>(key - key % options_.tile_size + options_.tile_size, block.num_keys);
    if (!sink) {
      const int64_t split_room = options_.split_size - position % options_.split_size;
      piece_end = std::min(piece_end, key + split_room);
    }
    int64_t first = position;
    int64_t last = block.position + piece_end - 1;
    bool dense = true;
    if (!sink && options_.causal) {
      first = std::max(first, first_position - window + 1);
      last = std::min(last, last_position);
      dense = first > last_position - window && last <= first_position;
    }
    if (first > last) {
      ++plan_.counts.skip;
      continue;
    }
    ++(dense ? plan_.counts.dense : plan_.counts.triangle);
    tiles_.push_back({.entry = entry,
                      .first_key = static_cast<int32_t>(first - block.position),
                      .num_keys = static_cast<int32_t>(last - first + 1),
                      .kind = dense ? TileKind::kDense : TileKind::kTriangle});
  }
}

int64_t Planner::SplitOf(const Tile& tile) const {
  const BlockEntry& entry = plan_.entries[tile.entry];
  return entry.sink_angle_row >= 0 ? -1 : (entry.position + tile.first_key) / options_.split_size;
}

// One run of all tiles from first_tile on (Q-major), or one for each split.
void Planner::AddRun(const RowRange& range, TileOrder order, int32_t first_tile) {
  const auto end = static_cast<int32_t>(tiles_.size());
  for (int32_t tile = first_tile; tile < end; ++tile) {
    if (tile == first_tile ||
        (order == TileOrder::kKMajor && SplitOf(tiles_[tile]) != SplitOf(tiles_[tile - 1]))) {
      runs_.push_back(
          {.range = range, .order = order, .first_tile = tile, .query_tile = num_query_tiles_});
    }
    Run& run = runs_.back();
    ++run.num_tiles;
    run.dense = run.dense && tiles_[tile].kind == TileKind::kDense;
  }
}

// Orders dense runs by the keys they read, 0 if these are the same bytes at the same positions.
int Planner::CompareTiles(const Run& a, const Run& b) const {
  if (a.num_tiles != b.num_tiles) {
    return a.num_tiles < b.num_tiles ? -1 : 1;
  }
  for (int32_t i = 0; i < a.num_tiles; ++i) {
    const Tile& tile_a = tiles_[a.first_tile + i];
    const Tile& tile_b = tiles_[b.first_tile + i];
    const BlockEntry& entry_a = plan_.entries[tile_a.entry];
    const BlockEntry& entry_b = plan_.entries[tile_b.entry];
    const auto key = [](const BlockEntry& entry, const Tile& tile) {
      return std::tuple(
          entry.block, entry.position, entry.sink_angle_row, tile.first_key, tile.num_keys);
    };
    const auto key_a = key(entry_a, tile_a);
    const auto key_b = key(entry_b, tile_b);
    if (key_a != key_b) {
      return key_a < key_b ? -1 : 1;
    }
  }
  return 0;
}

// Links K-major runs that read the same keys and mask nothing.
void Planner::ShareKeys() {
  for (size_t r = 0; r < runs_.size(); ++r) {
    if (runs_[r].order == TileOrder::kKMajor && runs_[r].dense) {
      shareable_.push_back(static_cast<int32_t>(r));
    }
  }
  if (shareable_.size() < 2) {
    return;
  }
  std::sort(shareable_.begin(), shareable_.end(), [this](int32_t a, int32_t b) {
    const int order = CompareTiles(runs_[a], runs_[b]);
    return order != 0 ? order < 0 : a < b;
  });
  for (size_t i = 1; i < shareable_.size(); ++i) {
    Run& previous = runs_[shareable_[i - 1]];
    Run& run = runs_[shareable_[i]];
    if (CompareTiles(previous, run) == 0) {
      previous.next_equal = shareable_[i];
      run.leads = false;
    }
  }
}

// Sinks are few: their split is folded with the next one in one item, unless that is shared.
void Planner::JoinSinks() {
  const auto alone = [](const Run& run) { return run.leads && run.next_equal < 0; };
  for (size_t r = 0; r + 1 < runs_.size(); ++r) {
    Run& sinks = runs_[r];
    Run& next = runs_[r + 1];
    if (sinks.order == TileOrder::kKMajor && SplitOf(tiles_[sinks.first_tile]) < 0 &&
        sinks.query_tile == next.query_tile && alone(sinks) && alone(next)) {
      sinks.num_tiles += next.num_tiles;
      sinks.dense = sinks.dense && next.dense;
      next.num_tiles = 0;
    }
  }
}

void Planner::ChooseHeadTiles() {
  const int32_t group = options_.num_heads / options_.num_kv_heads;
  const int32_t most = options_.head_tile_size == 0 ? group : options_.head_tile_size;
  head_tile_[0] = head_tile_[1] = std::min(most, group);
  const auto q_major = std::count_if(
      runs_.begin(), runs_.end(), [](const Run& run) { return run.order == TileOrder::kQMajor; });
  // Two items a worker even out the triangle; with fewer rows a step is short anyway.
  int32_t& heads = head_tile_[static_cast<size_t>(TileOrder::kQMajor)];
  while (heads > 1 && q_major * options_.num_kv_heads * CeilDiv(group, heads) <
                          int64_t{2} * options_.num_workers) {
    heads = CeilDiv(heads, 2);
  }
}

// One item for each KV head and head tile of the run and those equal to it.
void Planner::EmitItems(int32_t leader) {
  const Run& run = runs_[leader];
  WorkItem item;
  item.first_range = static_cast<int32_t>(plan_.row_ranges.size());
  item.first_tile = static_cast<int32_t>(plan_.tiles.size());
  item.num_tiles = run.num_tiles;
  item.order = run.order;
  plan_.tiles.insert(plan_.tiles.end(),
                     tiles_.begin() + run.first_tile,
                     tiles_.begin() + run.first_tile + run.num_tiles);
  int32_t num_rows = 0;
  bool whole = true;  // no row of the item has another one
  for (int32_t r = leader; r >= 0; r = runs_[r].next_equal) {
    plan_.row_ranges.push_back(runs_[r].range);
    runs_[r].row_in_item = num_rows;
    num_rows += runs_[r].range.num_rows;
    whole = whole && num_runs_[runs_[r].query_tile] == 1;
    ++item.num_ranges;
  }
  for (int32_t r = leader; r >= 0; r = runs_[r].next_equal) {
    runs_[r].item_rows = num_rows;
    runs_[r].first_partial = whole ? -1 : plan_.num_partials;
  }
  int64_t num_keys = 0;
  int32_t last_entry = -1;
  for (int32_t t = 0; t < item.num_tiles; ++t) {
    const Tile& tile = plan_.tiles[item.first_tile + t];
    num_keys += tile.num_keys;
    plan_.counts.block_loads += tile.entry != last_entry ? 1 : 0;
    last_entry = tile.entry;
  }
  const int32_t group = options_.num_heads / options_.num_kv_heads;
  const int32_t head_tile = head_tile_[static_cast<size_t>(run.order)];
  for (int32_t head = 0; head < options_.num_heads; head += item.num_heads) {
    item.kv_head = head / group;
    item.first_head = head;
    item.num_heads = std::min(head_tile, group - head % group);
    item.first_partial = whole ? -1 : plan_.num_partials + int64_t{num_rows} * head;
    // Reading a key costs a core about as much as eight rows of arithmetic with it.
    item.cost = num_keys * (8 + int64_t{num_rows} * item.num_heads);
    plan_.items.push_back(item);
  }
  plan_.num_partials += whole ? 0 : int64_t{num_rows} * options_.num_heads;
}

// Merges of the query tile whose runs begin at first_run; returns where the next one's begin.
size_t Planner::EmitMerges(size_t first_run) {
  const Run& first = runs_[first_run];
  size_t end = first_run;
  while (end < runs_.size() && runs_[end].query_tile == first.query_tile) {
    ++end;
  }
  if (first.first_partial < 0) {
    return end;
  }
  const int32_t group = options_.num_heads / options_.num_kv_heads;
  const int32_t head_tile = head_tile_[static_cast<size_t>(first.order)];
  int32_t num_heads = 0;
  for (int32_t head = 0; head < options_.num_heads; head += num_heads) {
    num_heads = std::min(head_tile, group - head % group);
    plan_.merges.push_back({.first_row = first.range.first_row,
                            .num_rows = first.range.num_rows,
                            .first_head = head,
                            .num_heads = num_heads,
                            .first_source = static_cast<int32_t>(plan_.merge_sources.size()),
                            .num_sources = num_runs_[first.query_tile]});
    for (size_t r = first_run; r < end; ++r) {
      if (runs_[r].num_tiles > 0) {
        plan_.merge_sources.push_back(runs_[r].first_partial + int64_t{runs_[r].item_rows} * head +
                                      int64_t{runs_[r].row_in_item} * num_heads);
      }
    }
  }
  return end;
}

}  // namespace

void PlanTiles(const TileStep& step, const TileOptions& options, TilePlan& plan) {
  RS_CHECK(options.num_kv_heads >= 1);
  RS_CHECK(options.num_heads >= 1);
  RS_CHECK(options.num_heads % options.num_kv_heads == 0);
  RS_CHECK(options.tile_size >= 1);
  RS_CHECK(options.head_tile_size >= 0);
  RS_CHECK(options.window >= 1);
  RS_CHECK(options.split_size >= 1);
  Planner(step, options, plan).Plan();
}

int64_t MaxPartials(const TileOptions& options,
                    int64_t max_rows,
                    int64_t max_sequences,
                    int64_t max_keys) {
  int64_t rows = max_rows;
  if (options.order == TileOrder::kQMajor) {
    rows = 0;
  } else if (!options.order.has_value()) {
    rows = std::min(max_rows, max_sequences * options.k_major_rows);
  }
  // A run of keys that begins and ends inside splits touches one more than it fills; sinks are one.
  const int64_t splits = CeilDiv(max_keys, options.split_size) + 2;
  return rows * options.num_heads * splits;
}

}  // namespace ringserve
