#include <algorithm>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include "tests/bench/bench_engine.h"
#include "tests/bench/bench_kernels.h"
#include "tests/bench/bench_sessions.h"
#include "tests/bench/bench_shape.h"

namespace ringserve {
namespace {

// Small enough to read 100,000 tokens in seconds, most of them spent on attention, whose rows cost
// more the further the prompt is.
constexpr char kShape[] = "hidden=256,layers=1,heads=2,kv_heads=1,head_dim=64,ffn=704,vocab=4096";
constexpr int64_t kBlockSize = 64;
constexpr int kNumStreams = 16;
constexpr int kNumForks = 100;
constexpr int32_t kForkTokens = 8;

EngineConfig Config(const SessionsBenchOptions& options, int32_t max_token_gap_ms) {
  EngineConfig config;
  // Room for what the streams make meanwhile, and for the turns of the forks.
  config.rings = {.buffer_size = RoundUp<int64_t>(options.long_tokens + 65'536, kBlockSize),
                  .block_size = static_cast<int32_t>(kBlockSize)};
  config.attention = {.tile_size = static_cast<int32_t>(kBlockSize)};
  config.scheduler = {.prefill_size = 2048,
                      .max_batch = kNumForks,
                      .max_queue = 256,
                      .max_token_gap_ms = max_token_gap_ms};
  const int64_t block_bytes = kBlockSize * 64 * 2 * 2;
  config.memory = {
      .device_bytes = (kNumStreams + 2) * config.rings.buffer_size / kBlockSize * block_bytes,
      .pinned_bytes = 0};
  config.sessions = {.max_sessions = 256};
  config.num_threads = options.num_threads;
  return config;
}

struct Load {
  double seconds = 0;    // from the prompt's arrival to its first token
  double waited_ms = 0;  // by all threads meanwhile, ready to run, for a core that others had
  double gap_p50_ms = 0;
  double gap_p99_ms = 0;
  double gap_max_ms = 0;
  double tokens_per_second = 0;  // read and made by all together
};

double Quantile(std::vector<double>& values, double q) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0
                        : values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

// How long the threads of this process have been ready to run without a core, as far as the kernel
// counts it.
double WaitedMs() {
  double nanoseconds = 0;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", error)) {
    std::ifstream file(task.path() / "schedstat");
    double ran = 0;
    double waited = 0;
    if (file >> ran >> waited) {
      nanoseconds += waited;
    }
  }
  return nanoseconds / 1e6;
}

// The streams run; then the session's long prompt comes and is read to its end.
absl::StatusOr<Load> LoadPrompt(BenchEngine& bench,
                                const SessionsBenchOptions& options,
                                const std::string& session_id) {
  std::vector<uint64_t> ids;
  ids.reserve(kNumStreams);
  for (int i = 0; i < kNumStreams; ++i) {
    ids.push_back(bench.Submit({.num_tokens = 16, .max_tokens = 1 << 16, .seed = 1 + uint64_t(i)}));
  }
  for (const uint64_t id : ids) {
    bench.WaitForTokens(id, 200);
  }
  const double waited_before = WaitedMs();
  ASSIGN_OR_RETURN(
      const BenchStream prompt,
      bench.Run({.num_tokens = options.long_tokens, .max_tokens = 1, .session_id = session_id}));
  const double waited_ms = WaitedMs() - waited_before;
  for (const uint64_t id : ids) {
    bench.engine().Cancel(id);
  }
  Load load;
  load.seconds = prompt.FirstTokenSeconds();
  load.waited_ms = waited_ms;
  std::vector<double> gaps;
  for (const uint64_t id : ids) {
    const BenchStream stream = bench.Wait(id);
    if (stream.status.ok()) {
      return absl::InternalError("a stream ended before the prompt was read");
    }
    for (size_t i = 1; i < stream.tokens.size(); ++i) {
      if (stream.tokens[i] >= prompt.submitted && stream.tokens[i] <= prompt.first_token) {
        gaps.push_back(
            std::chrono::duration<double, std::milli>(stream.tokens[i] - stream.tokens[i - 1])
                .count());
      }
    }
  }
  const auto made = static_cast<double>(gaps.size());
  load.tokens_per_second = (static_cast<double>(options.long_tokens) + made) / load.seconds;
  load.gap_p50_ms = Quantile(gaps, 0.5);
  load.gap_p99_ms = Quantile(gaps, 0.99);
  load.gap_max_ms = Quantile(gaps, 1.0);
  return load;
}

absl::StatusOr<SessionInfo> Fork(BenchEngine& bench, const std::string& id) {
  return bench.Ask([&](SessionReply reply) {
    bench.engine().ForkSession("", id, std::nullopt, {}, std::move(reply));
  });
}

absl::Status Close(BenchEngine& bench, const std::string& id) {
  return bench
      .Ask([&](SessionReply reply) { bench.engine().CloseSession("", id, std::move(reply)); })
      .status();
}

// Forks of a session, one by one, then all of them at once; `blocks` are those of the whole pool.
absl::Status ForkAll(BenchEngine& bench, const std::string& id, int64_t blocks) {
  std::vector<std::string> forks;
  std::vector<double> millis;
  const int64_t before = bench.engine().load().device_blocks_free;
  for (int i = 0; i < kNumForks; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(const SessionInfo fork, Fork(bench, id));
    millis.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
            .count());
    forks.push_back(fork.id);
  }
  const int64_t taken = before - bench.engine().load().device_blocks_free;
  std::vector<uint64_t> turns;
  const auto begin = std::chrono::steady_clock::now();
  for (size_t i = 0; i < forks.size(); ++i) {
    turns.push_back(bench.Submit(
        {.num_tokens = 1, .max_tokens = kForkTokens, .seed = 100 + i, .session_id = forks[i]}));
  }
  int64_t cached = 0;
  for (const uint64_t turn : turns) {
    const BenchStream stream = bench.Wait(turn);
    RETURN_IF_ERROR(stream.status);
    cached += stream.usage.cached_tokens;
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  for (const std::string& fork : forks) {
    RETURN_IF_ERROR(Close(bench, fork));
  }
  RETURN_IF_ERROR(Close(bench, id));
  const int64_t left = bench.engine().load().device_blocks_free;
  fmt::print("{} forks of it: {:.3f} ms each (median; most {:.3f}), {:.2f} new blocks each\n",
             kNumForks,
             Median(millis),
             *std::max_element(millis.begin(), millis.end()),
             static_cast<double>(taken) / kNumForks);
  fmt::print("  all at once, {} tokens each: {:.2f} s, {} tokens a fork not read again\n",
             kForkTokens,
             seconds,
             cached / kNumForks);
  fmt::print("  free after closing all: {} of {} blocks\n", left, blocks);
  return left == blocks ? absl::OkStatus() : absl::InternalError("blocks were lost");
}

}  // namespace

absl::Status BenchGap(const SessionsBenchOptions& options) {
  ASSIGN_OR_RETURN(const ModelConfig shape, ParseShape(kShape));
  fmt::print("{} running streams, a prompt of {} tokens arrives, {}\n",
             kNumStreams,
             options.long_tokens,
             kShape);
  double unbounded = 0;
  for (const int32_t bound : {0, options.max_token_gap_ms}) {
    ASSIGN_OR_RETURN(const auto bench, BenchEngine::Create(shape, Config(options, bound)));
    const int64_t blocks = bench->engine().load().device_blocks_free;
    ASSIGN_OR_RETURN(const SessionInfo session, bench->Ask([&](SessionReply reply) {
      bench->engine().CreateSession("", {}, std::move(reply));
    }));
    ASSIGN_OR_RETURN(const Load load, LoadPrompt(*bench, options, session.id));
    fmt::print(
        "  {:<22} gap p50 {:.1f} ms, p99 {:.1f}, max {:.1f}; {:.1f} s, {:.0f} tokens/s; "
        "waited {:.0f} ms for cores\n",
        bound == 0 ? "no bound:" : fmt::format("max_token_gap_ms {}:", bound),
        load.gap_p50_ms,
        load.gap_p99_ms,
        load.gap_max_ms,
        load.seconds,
        load.tokens_per_second,
        load.waited_ms);
    if (bound == 0) {
      unbounded = load.tokens_per_second;
      continue;
    }
    fmt::print("  p99 is {:.2f} of the bound; throughput {:.1f} % of that without one\n",
               load.gap_p99_ms / bound,
               100 * load.tokens_per_second / unbounded);
    RETURN_IF_ERROR(ForkAll(*bench, session.id, blocks));
  }
  return absl::OkStatus();
}

}  // namespace ringserve
