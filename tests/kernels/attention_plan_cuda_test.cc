// What the CUDA attention kernels are told to read, against the obvious model: each row and head
// meets each key that it may see once, at its distance, and no other. Needs no GPU.
#include "kernels/attention_plan_cuda.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/plan/tile_planner.h"
#include "tests/support/catch.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

// Keys that a row and head meet: pool block and place in it -> how far the key is from the row.
using Seen = std::map<std::pair<int32_t, int32_t>, int64_t>;
using SeenByRow = std::map<std::pair<int32_t, int32_t>, Seen>;  // of row and head

struct Step {
  std::vector<TileSequence> sequences;
  std::vector<BlockEntry> entries;
  TileOptions options;
  int32_t block_size = 0;
  int32_t head_dim = 0;
};

// Some sequences begin with the same blocks.
Step RandomStep(Random& random, int64_t max_rows = 150) {
  Step step;
  step.block_size = 8 << random.Int(0, 5);
  step.head_dim = random.Int(0, 1) == 0 ? 64 : 256;
  const auto kv_heads = static_cast<int32_t>(random.Int(1, 3));
  step.options = {.num_heads = kv_heads * static_cast<int32_t>(random.Int(1, 20)),
                  .num_kv_heads = kv_heads,
                  .tile_size = step.block_size,
                  .causal = random.Int(0, 1) == 0,
                  .window = random.Int(0, 1) == 0 ? kNoWindow : random.Int(1, 300),
                  .split_size = int64_t{128} << random.Int(0, 4)};
  if (random.Int(0, 2) > 0) {
    step.options.order = random.Int(0, 1) == 0 ? TileOrder::kQMajor : TileOrder::kKMajor;
  }
  int32_t next_block = 1000;
  int32_t next_row = 0;
  const int64_t num_sequences = random.Int(1, 6);
  for (int64_t s = 0; s < num_sequences; ++s) {
    const auto num_rows = static_cast<int32_t>(random.Int(0, 2) == 0 ? random.Int(1, max_rows) : 1);
    const int64_t position = random.Int(0, 900);
    const int64_t num_keys = step.options.causal ? position + num_rows : random.Int(1, 900);
    const bool shares = random.Int(0, 1) == 0;
    TileSequence sequence = {.first_row = next_row,
                             .num_rows = num_rows,
                             .first_position = position,
                             .first_entry = static_cast<int32_t>(step.entries.size())};
    for (int64_t key = 0; key < num_keys; key += step.block_size) {
      const auto keys = static_cast<int32_t>(std::min<int64_t>(step.block_size, num_keys - key));
      const bool is_shared = shares && keys == step.block_size && key + keys <= position;
      step.entries.push_back(
          {.block = is_shared ? static_cast<int32_t>(key / step.block_size) : next_block++,
           .num_keys = keys,
           .position = key});
    }
    sequence.num_entries = static_cast<int32_t>(step.entries.size()) - sequence.first_entry;
    next_row += num_rows;
    step.sequences.push_back(sequence);
  }
  return step;
}

SeenByRow Expected(const Step& step) {
  SeenByRow expected;
  for (const TileSequence& sequence : step.sequences) {
    for (int32_t i = 0; i < sequence.num_rows; ++i) {
      const int64_t position = sequence.first_position + i;
      Seen seen;
      for (int32_t e = 0; e < sequence.num_entries; ++e) {
        const BlockEntry& entry =
            step.entries[static_cast<size_t>(sequence.first_entry) + static_cast<size_t>(e)];
        for (int32_t key = 0; key < entry.num_keys; ++key) {
          const int64_t distance = entry.position + key - position;
          if (!step.options.causal || (distance <= 0 && distance > -step.options.window)) {
            seen[{entry.block, key}] = distance;
          }
        }
      }
      for (int32_t head = 0; head < step.options.num_heads; ++head) {
        expected[{sequence.first_row + i, head}] = seen;
      }
    }
  }
  return expected;
}

// Follows an item as the kernels do, and checks what they rely on.
void Follow(const Step& step,
            const cuda::PackedAttentionPlan& packed,
            const cuda::AttentionItem& item,
            SeenByRow& met) {
  const int32_t tile_keys = cuda::TileKeys(step.head_dim);
  const int32_t group = step.options.num_heads / step.options.num_kv_heads;
  REQUIRE(item.num_tiles >= 1);
  for (int32_t i = 0; i < item.num_rows; ++i) {
    const bool is_listed = item.first_listed >= 0;
    const cuda::ListedRow listed =
        is_listed ? packed.rows[static_cast<size_t>(item.first_listed + i)]
                  : cuda::ListedRow{item.first_row + i, item.text_position + i};
    Seen keys;
    for (int32_t key = 0; key < item.num_tiles * tile_keys; ++key) {
      const int32_t row_position = item.row_position + i;
      const bool exists = key >= item.key_begin && key < item.key_end;
      const bool is_seen =
          exists && (is_listed || (key <= row_position && key > row_position - packed.window));
      const int32_t tile = key / tile_keys;
      if (!is_seen) {
        REQUIRE((tile < item.dense_begin || tile >= item.dense_end));  // where somebody masks it
        continue;
      }
      const int32_t place = key + item.base_in_block;
      const int32_t block =
          packed.blocks[static_cast<size_t>(item.first_block + place / step.block_size)];
      const int64_t distance = int64_t{key} - listed.text_position;
      keys[{block, place % step.block_size}] = distance;
      if (!is_listed && key < item.old_keys) {
        const auto sequence =
            std::find_if(step.sequences.begin(), step.sequences.end(), [&](const auto& s) {
              return listed.row >= s.first_row && listed.row < s.first_row + s.num_rows;
            });
        REQUIRE(step.options.causal);
        REQUIRE(distance < sequence->first_row - listed.row);  // before the step's first row
      }
    }
    for (int32_t head = item.first_head; head < item.first_head + item.num_heads; ++head) {
      REQUIRE(head / group == item.kv_head);
      Seen& seen = met[{listed.row, head}];
      const size_t before = seen.size();
      seen.insert(keys.begin(), keys.end());
      REQUIRE(seen.size() == before + keys.size());  // none twice
    }
  }
}

TEST_CASE("items of a CUDA attention plan cover what rows see, once") {
  Random random(17);
  for (int round = 0; round < 40; ++round) {
    const Step step = RandomStep(random);
    TilePlan plan;
    PlanTiles({.sequences = step.sequences, .entries = step.entries}, step.options, plan);
    const cuda::AttentionPlanShape shape = {.layout = {.block_size = step.block_size,
                                                       .num_layers = 1,
                                                       .num_kv_heads = step.options.num_kv_heads,
                                                       .head_dim = step.head_dim},
                                            .num_heads = step.options.num_heads};
    cuda::PackedAttentionPlan packed;
    CAPTURE(round, step.options.causal, step.options.window, step.options.split_size);
    CAPTURE(step.block_size, step.options.num_heads, step.options.num_kv_heads);
    const char* problem = cuda::PackAttentionPlan(plan, shape, packed);
    REQUIRE(std::string(problem == nullptr ? "" : problem).empty());
    SeenByRow met;
    for (const auto* items :
         {&packed.decode, &packed.prefill, &packed.general_decode, &packed.general_prefill}) {
      for (const cuda::AttentionItem& item : *items) {
        Follow(step, packed, item, met);
      }
    }
    REQUIRE(met == Expected(step));
  }
}

// Which rows would be appended where, if every item that ends with its row's own key did it; and
// which keys of their own rows meet elsewhere.
struct Appended {
  std::map<std::pair<int32_t, int32_t>, std::pair<int32_t, int32_t>> slots;  // by row and KV head
  int32_t met_elsewhere = 0;
  int32_t twice = 0;
};

Appended FollowOwnKeys(const Step& step, const cuda::PackedAttentionPlan& packed) {
  Appended appended;
  const int32_t tile_keys = cuda::TileKeys(step.head_dim);
  for (const cuda::AttentionItem& item : packed.decode) {
    const int32_t own = item.row_position;
    const bool ends_with_it = item.key_end - 1 == own;
    if (ends_with_it && own / tile_keys == item.num_tiles - 1) {
      const int32_t place = own + item.base_in_block;
      const int32_t block =
          packed.blocks[static_cast<size_t>(item.first_block + place / step.block_size)];
      const bool is_new = appended.slots
                              .emplace(std::pair{item.first_row, item.kv_head},
                                       std::pair{block, place % step.block_size})
                              .second;
      appended.twice += is_new ? 0 : 1;
    } else if (own >= item.key_begin && own < item.key_end) {
      ++appended.met_elsewhere;
    }
  }
  return appended;
}

TEST_CASE("a CUDA attention plan tells when every row's own key ends one item a KV head") {
  Random random(23);
  int32_t num_told = 0;
  int32_t num_shared = 0;  // where others than decode items have a part
  for (int round = 0; round < 400; ++round) {
    const Step step = RandomStep(random, round % 2 == 0 ? 1 : 150);
    if (!step.options.causal) {
      continue;
    }
    TilePlan plan;
    PlanTiles({.sequences = step.sequences, .entries = step.entries}, step.options, plan);
    cuda::PackedAttentionPlan packed;
    REQUIRE(cuda::PackAttentionPlan(plan,
                                    {.layout = {.block_size = step.block_size,
                                                .num_layers = 1,
                                                .num_kv_heads = step.options.num_kv_heads,
                                                .head_dim = step.head_dim},
                                     .num_heads = step.options.num_heads},
                                    packed) == nullptr);
    std::vector<std::byte> image(cuda::PackedBytes(packed));
    const cuda::AttentionPlanView view = cuda::WritePlan(packed, image.data(), image.data());
    const int32_t group = step.options.num_heads / step.options.num_kv_heads;
    const bool alone = std::all_of(step.sequences.begin(), step.sequences.end(), [](const auto& s) {
      return s.num_rows == 1;
    });
    const bool plain =
        packed.prefill.empty() && packed.general_decode.empty() && packed.general_prefill.empty();
    const bool told = view.own_keys == plan.num_rows * step.options.num_kv_heads;
    CAPTURE(round, step.sequences.size(), group, step.options.window, step.options.split_size);
    CHECK(told == (alone && plain && group <= cuda::kDecodeRows));
    num_shared += alone && !plain ? 1 : 0;
    if (!told) {
      continue;
    }
    ++num_told;
    const Appended appended = FollowOwnKeys(step, packed);
    CHECK(appended.twice == 0);
    CHECK(appended.met_elsewhere == 0);
    for (const TileSequence& sequence : step.sequences) {
      const BlockEntry& last =
          step.entries[static_cast<size_t>(sequence.first_entry + sequence.num_entries - 1)];
      for (int32_t kv_head = 0; kv_head < step.options.num_kv_heads; ++kv_head) {
        const auto found = appended.slots.find({sequence.first_row, kv_head});
        REQUIRE(found != appended.slots.end());
        CHECK(found->second == std::pair{last.block, last.num_keys - 1});
      }
    }
  }
  CHECK(num_told > 20);
  CHECK(num_shared > 5);
}

}  // namespace
}  // namespace ringserve
