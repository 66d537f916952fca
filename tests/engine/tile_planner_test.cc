#include "engine/plan/tile_planner.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

struct Step {
  std::vector<TileSequence> sequences;
  std::vector<BlockEntry> entries;

  TilePlan Plan(const TileOptions& options) const {
    TilePlan plan;
    PlanTiles({.sequences = sequences, .entries = entries}, options, plan);
    return plan;
  }

  // A sequence of num_rows rows from first_position on over the blocks from first_key on.
  void Add(int64_t first_position, int32_t num_rows, int32_t block_size, int64_t first_key = 0) {
    const int32_t first_row =
        sequences.empty() ? 0 : sequences.back().first_row + sequences.back().num_rows;
    sequences.push_back({.first_row = first_row,
                         .num_rows = num_rows,
                         .first_position = first_position,
                         .first_entry = static_cast<int32_t>(entries.size())});
    AddBlocks(first_position + num_rows, block_size, first_key);
  }

  void AddBlocks(int64_t end, int32_t block_size, int64_t first_key) {
    for (int64_t position = first_key; position < end; position += block_size) {
      entries.push_back(
          {.block = next_block++,
           .num_keys = static_cast<int32_t>(std::min<int64_t>(block_size, end - position)),
           .position = position});
    }
    sequences.back().num_entries =
        static_cast<int32_t>(entries.size()) - sequences.back().first_entry;
  }

  int32_t next_block = 0;
};

// What a row may see: by definition, key by key.
bool Visible(const BlockEntry& entry, int32_t key, int64_t position, const TileOptions& options) {
  const int64_t key_position = entry.position + key;
  return !options.causal || entry.sink_angle_row >= 0 ||
         (key_position <= position && key_position > position - options.window);
}

int64_t SplitOf(const BlockEntry& entry, int32_t key, int64_t split_size) {
  return entry.sink_angle_row >= 0 ? -1 : (entry.position + key) / split_size;
}

// Everything that kernels/tile_plan.h promises, against plain loops over rows and keys.
class Checker {
 public:
  Checker(const Step& step, const TileOptions& options, const TilePlan& plan)
      : step_(step), options_(options), plan_(plan) {}

  void Check() {
    TileCounts counts;
    int64_t last_cost = std::numeric_limits<int64_t>::max();
    for (const WorkItem& item : plan_.items) {
      REQUIRE(item.cost > 0);
      REQUIRE(item.cost <= last_cost);
      last_cost = item.cost;
      CheckItem(item, counts);
    }
    CheckEveryPairOnce();
    CheckResults();
    CHECK(counts.dense == plan_.counts.dense);
    CHECK(counts.triangle == plan_.counts.triangle);
    CHECK(counts.block_loads == plan_.counts.block_loads);
  }

 private:
  void CheckItem(const WorkItem& item, TileCounts& counts) {
    const int32_t group = options_.num_heads / options_.num_kv_heads;
    REQUIRE(item.num_heads >= 1);
    REQUIRE(item.num_tiles >= 1);
    REQUIRE(item.num_ranges >= 1);
    REQUIRE((item.order == TileOrder::kKMajor || item.num_ranges == 1));
    REQUIRE(item.first_head / group == item.kv_head);
    REQUIRE((item.first_head + item.num_heads - 1) / group == item.kv_head);
    if (options_.head_tile_size > 0) {
      REQUIRE(item.num_heads <= options_.head_tile_size);
    }
    int32_t rows_before = 0;
    for (int32_t r = 0; r < item.num_ranges; ++r) {
      const RowRange& range = plan_.row_ranges[item.first_range + r];
      CheckRange(item, range, rows_before, counts);
      rows_before += range.num_rows;
    }
    if (item.first_head != 0) {
      return;
    }
    int32_t last_entry = -1;
    for (int32_t t = 0; t < item.num_tiles; ++t) {
      const int32_t entry = plan_.tiles[item.first_tile + t].entry;
      counts.block_loads += entry != last_entry ? 1 : 0;
      last_entry = entry;
    }
  }

  void CheckRange(const WorkItem& item,
                  const RowRange& range,
                  int32_t rows_before,
                  TileCounts& counts) {
    const TileSequence& sequence = step_.sequences[range.sequence];
    REQUIRE(range.num_rows >= 1);
    REQUIRE(range.num_rows <= options_.tile_size);
    REQUIRE(range.first_row >= sequence.first_row);
    REQUIRE(range.first_row + range.num_rows <= sequence.first_row + sequence.num_rows);
    std::set<int64_t> splits;
    int64_t last_split = -2;
    int64_t last_position = std::numeric_limits<int64_t>::min();
    for (int32_t t = 0; t < item.num_tiles; ++t) {
      const Tile& tile = plan_.tiles[item.first_tile + t];
      const BlockEntry& entry = step_.entries[tile.entry];
      REQUIRE(tile.num_keys >= 1);
      REQUIRE(tile.num_keys <= options_.tile_size);
      REQUIRE(tile.first_key >= 0);
      REQUIRE(tile.first_key + tile.num_keys <= entry.num_keys);
      const int64_t split = SplitOf(entry, tile.first_key, options_.split_size);
      REQUIRE(split == SplitOf(entry, tile.first_key + tile.num_keys - 1, options_.split_size));
      REQUIRE(split >= last_split);
      last_split = split;
      splits.insert(split);
      REQUIRE((entry.position + tile.first_key > last_position));
      last_position = entry.position + tile.first_key;
      if (item.first_head == 0) {
        ++(tile.kind == TileKind::kDense ? counts.dense : counts.triangle);
      }
      CheckTile(item, range, tile);
    }
    for (int32_t i = 0; i < range.num_rows; ++i) {
      for (int32_t h = 0; h < item.num_heads; ++h) {
        const auto row = std::pair(range.first_row + i, item.first_head + h);
        const int64_t partial =
            item.first_partial < 0
                ? -1
                : item.first_partial + int64_t{rows_before + i} * item.num_heads + h;
        REQUIRE(partial < plan_.num_partials);
        results_[row].emplace_back(partial, splits);
      }
    }
  }

  // Enters what the tile covers: the pairs that are visible, and at least one in every tile.
  void CheckTile(const WorkItem& item, const RowRange& range, const Tile& tile) {
    const TileSequence& sequence = step_.sequences[range.sequence];
    // A shared tile names the entry of one of the sequences; find this one's.
    const BlockEntry& shared = step_.entries[tile.entry];
    int32_t own = -1;
    for (int32_t e = sequence.first_entry; e < sequence.first_entry + sequence.num_entries; ++e) {
      const BlockEntry& entry = step_.entries[e];
      if (entry.block == shared.block && entry.position == shared.position) {
        own = e;
      }
    }
    REQUIRE(own >= 0);
    bool any = false;
    for (int32_t i = 0; i < range.num_rows; ++i) {
      const int64_t position = sequence.first_position + (range.first_row + i - sequence.first_row);
      for (int32_t key = tile.first_key; key < tile.first_key + tile.num_keys; ++key) {
        const bool visible = Visible(shared, key, position, options_);
        any = any || visible;
        REQUIRE((visible || tile.kind == TileKind::kTriangle));
        for (int32_t h = 0; visible && h < item.num_heads; ++h) {
          ++covered_[{range.first_row + i, item.first_head + h, own, key}];
        }
      }
    }
    REQUIRE(any);
  }

  void CheckEveryPairOnce() {
    int64_t expected = 0;
    for (const TileSequence& sequence : step_.sequences) {
      for (int32_t row = 0; row < sequence.num_rows; ++row) {
        for (int32_t e = 0; e < sequence.num_entries; ++e) {
          const BlockEntry& entry = step_.entries[sequence.first_entry + e];
          for (int32_t key = 0; key < entry.num_keys; ++key) {
            expected += Visible(entry, key, sequence.first_position + row, options_) ? 1 : 0;
          }
        }
      }
    }
    CHECK(covered_.size() == static_cast<size_t>(expected * options_.num_heads));
    CHECK(std::all_of(
        covered_.begin(), covered_.end(), [](const auto& pair) { return pair.second == 1; }));
  }

  // Every row and head is written once, by its only item or by a merge of its items in order, and
  // no two results share a place.
  void CheckResults() {
    std::set<int64_t> partials;
    std::map<std::pair<int32_t, int32_t>, int> written;
    for (const auto& [row, results] : results_) {
      for (const auto& [partial, splits] : results) {
        if (partial < 0) {
          REQUIRE(results.size() == 1);
          ++written[row];
        } else {
          REQUIRE(partials.insert(partial).second);
        }
      }
    }
    CHECK(static_cast<int64_t>(partials.size()) == plan_.num_partials);
    for (const MergeItem& merge : plan_.merges) {
      for (int32_t i = 0; i < merge.num_rows; ++i) {
        for (int32_t h = 0; h < merge.num_heads; ++h) {
          const auto row = std::pair(merge.first_row + i, merge.first_head + h);
          ++written[row];
          CheckMerge(merge, int64_t{i} * merge.num_heads + h, results_[row]);
        }
      }
    }
    CHECK(static_cast<int64_t>(written.size()) == int64_t{plan_.num_rows} * options_.num_heads);
    CHECK(std::all_of(
        written.begin(), written.end(), [](const auto& row) { return row.second == 1; }));
  }

  void CheckMerge(const MergeItem& merge,
                  int64_t offset,
                  const std::vector<std::pair<int64_t, std::set<int64_t>>>& results) {
    REQUIRE(static_cast<size_t>(merge.num_sources) == results.size());
    int64_t last_split = -2;
    for (int32_t s = 0; s < merge.num_sources; ++s) {
      const int64_t partial = plan_.merge_sources[merge.first_source + s] + offset;
      const auto found = std::find_if(results.begin(), results.end(), [&](const auto& result) {
        return result.first == partial;
      });
      REQUIRE(found != results.end());
      REQUIRE((s == 0 || found->second.size() == 1));
      REQUIRE(*found->second.begin() > last_split);
      last_split = *found->second.rbegin();
    }
  }

  const Step& step_;
  const TileOptions& options_;
  const TilePlan& plan_;
  std::map<std::tuple<int32_t, int32_t, int32_t, int32_t>, int> covered_;
  // Of (row, head): partial index and splits of each item that holds it.
  std::map<std::pair<int32_t, int32_t>, std::vector<std::pair<int64_t, std::set<int64_t>>>>
      results_;
};

// Sequences with sinks, windows, rings that start late, and prefixes shared with earlier ones.
Step RandomStep(Random& random, int32_t block_size) {
  Step step;
  const int64_t num_sequences = random.Int(1, 5);
  for (int64_t s = 0; s < num_sequences; ++s) {
    const auto num_rows = static_cast<int32_t>(random.Int(0, 2) == 0 ? random.Int(1, 40) : 1);
    const int64_t first_position = random.Int(0, 150);
    int64_t first_key = 0;
    if (random.Int(0, 2) == 0) {
      first_key = random.Int(0, first_position / block_size) * block_size;
    }
    const int32_t first_row =
        step.sequences.empty() ? 0
                               : step.sequences.back().first_row + step.sequences.back().num_rows;
    step.sequences.push_back({.first_row = first_row,
                              .num_rows = num_rows,
                              .first_position = first_position,
                              .first_entry = static_cast<int32_t>(step.entries.size())});
    if (first_key > 4 && random.Int(0, 1) == 0) {
      step.entries.push_back({.block = step.next_block++,
                              .num_keys = 3,
                              .position = first_key - 3,
                              .sink_angle_row = static_cast<int32_t>(4 * s)});
    }
    step.AddBlocks(first_position + num_rows, block_size, first_key);
    if (s > 0 && random.Int(0, 1) == 0) {
      const TileSequence& other = step.sequences[random.Int(0, s - 1)];
      for (int32_t e = step.sequences.back().first_entry;
           e < static_cast<int32_t>(step.entries.size());
           ++e) {
        for (int32_t o = other.first_entry; o < other.first_entry + other.num_entries; ++o) {
          const BlockEntry& from = step.entries[o];
          BlockEntry& to = step.entries[e];
          if (from.position == to.position && from.num_keys == block_size &&
              to.num_keys == block_size && from.sink_angle_row < 0 && to.sink_angle_row < 0) {
            to.block = from.block;
          }
        }
      }
    }
  }
  return step;
}

TEST_CASE("plans of random steps cover every visible pair once, and promise nothing else") {
  Random random(1);
  for (int32_t trial = 0; trial < 300; ++trial) {
    const auto block_size = static_cast<int32_t>(int64_t{1} << random.Int(1, 5));
    const Step step = RandomStep(random, block_size);
    TileOptions options = {.num_heads = 6, .num_kv_heads = 2};
    options.tile_size = static_cast<int32_t>(int64_t{1} << random.Int(0, 5));
    options.head_tile_size = static_cast<int32_t>(random.Int(0, 3));
    options.split_size = std::vector<int64_t>{16, 24, 64, 1024}[random.Int(0, 3)];
    options.causal = trial % 4 != 3;
    options.window = random.Int(0, 1) == 0 ? kNoWindow : random.Int(1, 60);
    options.k_major_rows = static_cast<int32_t>(random.Int(0, 8));
    options.num_workers = static_cast<int32_t>(random.Int(1, 20));
    const int64_t order = random.Int(0, 2);
    if (order > 0) {
      options.order = order == 1 ? TileOrder::kQMajor : TileOrder::kKMajor;
    }
    CAPTURE(trial);
    const TilePlan plan = step.Plan(options);
    Checker(step, options, plan).Check();
    int64_t max_keys = 0;
    for (const TileSequence& sequence : step.sequences) {
      max_keys = std::max(max_keys, sequence.first_position + sequence.num_rows);
    }
    CHECK(
        plan.num_partials <=
        MaxPartials(options, plan.num_rows, static_cast<int64_t>(step.sequences.size()), max_keys));
  }
}

TEST_CASE("a causal prefill of n tiles a side runs n (n + 1) / 2 of them") {
  for (const int32_t tile_size : {16, 64}) {
    for (const auto order : {TileOrder::kQMajor, TileOrder::kKMajor}) {
      for (int64_t n = 1; n <= 33; n += 4) {
        Step step;
        step.Add(0, static_cast<int32_t>(n * tile_size), 64);
        TileOptions options = {.num_heads = 4, .num_kv_heads = 2, .tile_size = tile_size};
        options.order = order;
        options.split_size = 256;
        const TileCounts counts = step.Plan(options).counts;
        CHECK(counts.dense + counts.triangle == n * (n + 1) / 2);
        CHECK(counts.triangle == n);
        CHECK(counts.dense + counts.triangle + counts.skip == n * n);
      }
    }
  }
}

TEST_CASE("a window skips what lies before it") {
  Step step;
  step.Add(640, 64, 64);
  TileOptions options = {.num_heads = 1, .num_kv_heads = 1};
  options.window = 129;
  const TileCounts counts = step.Plan(options).counts;
  // The rows [640, 704) see from 512 at the earliest and all of block 9.
  CHECK(counts.triangle == 2);
  CHECK(counts.dense == 1);
  CHECK(counts.skip == 8);
}

TEST_CASE("auto runs one row K-major, split by split, and prefill Q-major in one piece") {
  Step step;
  step.Add(4000, 1, 64);
  step.Add(4000, 64, 64);
  const TilePlan plan = step.Plan({.num_heads = 8, .num_kv_heads = 2});
  int64_t k_major = 0;
  int64_t q_major = 0;
  for (const WorkItem& item : plan.items) {
    ++(item.order == TileOrder::kKMajor ? k_major : q_major);
    CHECK((item.first_partial >= 0) == (item.order == TileOrder::kKMajor));
  }
  CHECK(k_major == 8);
  CHECK(q_major == 4);  // position 4000 lies in the middle of a tile
  CHECK(plan.num_partials == 32);
  CHECK(plan.merges.size() == 2);
}

TEST_CASE("sequences that share a split's blocks read them once") {
  Step step;
  for (int32_t s = 0; s < 10; ++s) {
    step.Add(2048 + s, 1, 64);
    for (int32_t e = 0; e < 32; ++e) {
      step.entries[step.sequences.back().first_entry + e].block = 1000 + e;
    }
  }
  const TilePlan plan = step.Plan({.num_heads = 4, .num_kv_heads = 1});
  CHECK(plan.counts.block_loads == 32 + 10);
  CHECK(plan.items.size() == 2 + 10);
  CHECK(plan.items[0].num_ranges == 10);
  CHECK(plan.counts.dense == 330);
}

TEST_CASE("few Q-major items are cut by heads until all workers have some") {
  Step step;
  step.Add(0, 64, 64);
  TileOptions options = {.num_heads = 16, .num_kv_heads = 2};
  CHECK(step.Plan(options).items.size() == 2);
  options.num_workers = 8;
  CHECK(step.Plan(options).items.size() == 16);
}

TEST_CASE("planning again into one plan leaves nothing of the first") {
  Random random(2);
  TilePlan plan;
  for (int32_t trial = 0; trial < 20; ++trial) {
    const Step step = RandomStep(random, 16);
    TileOptions options = {.num_heads = 2, .num_kv_heads = 1, .tile_size = 16};
    options.split_size = 32;
    PlanTiles({.sequences = step.sequences, .entries = step.entries}, options, plan);
    Checker(step, options, plan).Check();
  }
}

}  // namespace
}  // namespace ringserve
