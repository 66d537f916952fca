#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include <fmt/format.h>

#include "tests/bench/bench_engine.h"
#include "tests/bench/bench_sessions.h"
#include "tests/bench/bench_shape.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

constexpr char kShape[] = "hidden=64,layers=2,heads=2,kv_heads=1,head_dim=32,ffn=128,vocab=256";
constexpr size_t kLive = 64;  // requests at once; half of them have to wait

EngineConfig Config(const SessionsBenchOptions& options) {
  EngineConfig config;
  config.rings = {.buffer_size = 512, .block_size = 16};
  config.attention = {.tile_size = 16};
  config.scheduler = {.prefill_size = 64, .max_batch = kLive / 2, .max_queue = 2 * kLive};
  config.memory = {.device_bytes = 0, .pinned_bytes = 0};
  config.sessions = {.max_sessions = 16};
  config.num_threads = options.num_threads;
  return config;
}

}  // namespace

absl::Status BenchCancels(const SessionsBenchOptions& options) {
  ASSIGN_OR_RETURN(const ModelConfig shape, ParseShape(kShape));
  ASSIGN_OR_RETURN(const auto bench, BenchEngine::Create(shape, Config(options)));
  const int64_t blocks = bench->engine().load().device_blocks_free;
  Random random(1);
  std::deque<uint64_t> live;
  // By how many steps published their events from the cancel to the request's end, that of the end
  // included: 1, the cancel was seen at once; 2, after the step that was under way.
  std::array<int64_t, 4> num_steps{};
  int64_t num_finished = 0;
  int64_t num_cancelled = 0;
  for (int32_t i = 0; i < options.num_cancels;) {
    while (live.size() < kLive) {
      live.push_back(bench->Submit({.num_tokens = random.Int(1, 200),
                                    .max_tokens = static_cast<int32_t>(random.Int(1, 200)),
                                    .seed = random.Bits()}));
    }
    const auto victim = live.begin() + random.Int(0, static_cast<int64_t>(live.size()) - 1);
    const int64_t publish = bench->num_publishes();
    bench->engine().Cancel(*victim);
    const BenchStream stream = bench->Wait(*victim);
    live.erase(victim);
    if (stream.status.ok()) {
      ++num_finished;  // it had ended before
      continue;
    }
    ++i;
    ++num_cancelled;
    const int64_t steps = stream.last_publish - publish;
    ++num_steps[static_cast<size_t>(std::clamp<int64_t>(steps, 1, 4) - 1)];
  }
  for (const uint64_t id : live) {
    bench->engine().Cancel(id);
    bench->Wait(id);
  }
  const int64_t left = bench->engine().load().device_blocks_free;
  fmt::print("{} cancels at random moments ({} came after the end)\n", num_cancelled, num_finished);
  fmt::print(
      "  gone at the next step: {}; at the one after it, the first that began later: {}; later: "
      "{}\n  free after all: {} of {} blocks\n",
      num_steps[0],
      num_steps[1],
      num_steps[2] + num_steps[3],
      left,
      blocks);
  return left == blocks ? absl::OkStatus() : absl::InternalError("blocks were lost");
}

}  // namespace ringserve
