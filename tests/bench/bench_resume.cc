#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include <fmt/format.h>

#include "kernels/cpu_features.h"
#include "kernels/thread_pool.h"
#include "tests/bench/bench_engine.h"
#include "tests/bench/bench_kernels.h"
#include "tests/bench/bench_sessions.h"
#include "tests/bench/bench_shape.h"

namespace ringserve {
namespace {

// The keys and values of a 1B-class Llama, 2 MiB a block, on a model that computes little else.
constexpr char kShape[] = "hidden=64,layers=16,heads=8,kv_heads=8,head_dim=64,ffn=64,vocab=256";
constexpr int kWarmTurns = 5;
constexpr int64_t kBlockSize = 64;
constexpr int64_t kBlockBytes = kBlockSize * 16 * 8 * 64 * 2 * 2;

// Copying blocks with all threads, as the CPU backend does.
class CopyCeiling {
 public:
  CopyCeiling(int64_t num_blocks, ThreadPool& pool)
      : num_blocks_(num_blocks),
        from_(num_blocks * kBlockBytes),
        to_(num_blocks * kBlockBytes),
        pool_(pool) {
    std::memset(from_.data(), 1, static_cast<size_t>(from_.num_bytes()));
    Seconds();  // the first touch of `to`
  }

  double Seconds() {
    const auto begin = std::chrono::steady_clock::now();
    constexpr int64_t kPieces = 8;  // of a block
    constexpr int64_t kBytes = kBlockBytes / kPieces;
    pool_.ParallelFor(num_blocks_ * kPieces, 1, [&](int64_t first, int64_t last) {
      std::memcpy(to_.data() + first * kBytes,
                  from_.data() + first * kBytes,
                  static_cast<size_t>((last - first) * kBytes));
    });
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

 private:
  int64_t num_blocks_;
  HugeBuffer from_;
  HugeBuffer to_;
  ThreadPool& pool_;
};

EngineConfig Config(const SessionsBenchOptions& options) {
  const int64_t num_blocks = CeilDiv(options.resume_tokens, kBlockSize) + 2;
  EngineConfig config;
  config.rings = {.buffer_size = num_blocks * kBlockSize, .block_size = kBlockSize};
  config.attention = {.tile_size = kBlockSize};
  config.scheduler = {.prefill_size = 512, .max_batch = 1, .max_queue = 16};
  config.memory = {.device_bytes = num_blocks * kBlockBytes,
                   .pinned_bytes = 2 * num_blocks * kBlockBytes};
  config.sessions = {.max_sessions = 16};
  config.num_threads = options.num_threads;
  return config;
}

absl::StatusOr<std::string> NewSession(BenchEngine& bench) {
  ASSIGN_OR_RETURN(const SessionInfo info, bench.Ask([&](SessionReply reply) {
    bench.engine().CreateSession("", {}, std::move(reply));
  }));
  return info.id;
}

// One round: turns of two sessions, of which the device holds one.
struct Round {
  double prefill_seconds = 0;  // reading the tokens
  double swap_seconds = 0;     // a turn whose session comes back while the other leaves
  double resume_seconds = 0;   // a turn whose session comes back into a free pool
  double warm_seconds = 0;     // the turns after that, whose session is on the device
  double restored_gib = 0;     // by either of the two
};

absl::StatusOr<Round> RunRound(BenchEngine& bench, const SessionsBenchOptions& options) {
  Round round;
  ASSIGN_OR_RETURN(const std::string first, NewSession(bench));
  ASSIGN_OR_RETURN(const std::string second, NewSession(bench));
  const auto turn = [&](const std::string& id, int64_t num_tokens) -> absl::StatusOr<double> {
    ASSIGN_OR_RETURN(const BenchStream stream,
                     bench.Run({.num_tokens = num_tokens, .max_tokens = 1, .session_id = id}));
    if (stream.usage.reprefilled_tokens != 0) {
      return absl::InternalError("tokens were computed a second time");
    }
    return stream.FirstTokenSeconds();
  };
  ASSIGN_OR_RETURN(round.prefill_seconds, turn(first, options.resume_tokens));
  RETURN_IF_ERROR(turn(second, options.resume_tokens).status());
  const int64_t before = bench.engine().load().restored_blocks;
  ASSIGN_OR_RETURN(round.swap_seconds, turn(first, 1));
  round.restored_gib =
      static_cast<double>(bench.engine().load().restored_blocks - before) * kBlockBytes / (1 << 30);
  const auto close_session = [&](const std::string& id) {
    return bench
        .Ask([&](SessionReply reply) { bench.engine().CloseSession("", id, std::move(reply)); })
        .status();
  };
  RETURN_IF_ERROR(close_session(first));
  ASSIGN_OR_RETURN(round.resume_seconds, turn(second, 1));
  std::vector<double> warm;
  for (int i = 0; i < kWarmTurns; ++i) {
    ASSIGN_OR_RETURN(const double seconds, turn(second, 1));
    warm.push_back(seconds);
  }
  round.warm_seconds = Median(warm);
  RETURN_IF_ERROR(close_session(second));
  return round;
}

}  // namespace

absl::Status BenchResume(const SessionsBenchOptions& options) {
  ASSIGN_OR_RETURN(const ModelConfig shape, ParseShape(kShape));
  ASSIGN_OR_RETURN(const auto bench, BenchEngine::Create(shape, Config(options)));
  ThreadPool pool(options.num_threads == 0 ? UsableCpus() : options.num_threads);
  CopyCeiling ceiling(CeilDiv(options.resume_tokens, kBlockSize), pool);
  std::vector<double> resume;
  std::vector<double> swap;
  std::vector<double> copy;
  std::vector<double> faster;
  BenchSeries ratio = {"resume from host memory", "GiB/s", {}, {}};
  BenchSeries swap_ratio = {"the same, another leaves", "GiB/s", {}, {}};
  // The first round touches the host's pages for the first time.
  for (int32_t i = 0; i <= options.rounds; ++i) {
    const double before = ceiling.Seconds();
    ASSIGN_OR_RETURN(const Round round, RunRound(*bench, options));
    const double copy_seconds = (before + ceiling.Seconds()) / 2;
    if (i == 0) {
      continue;
    }
    const double gib = round.restored_gib;
    const double copy_rate = gib / copy_seconds;
    ratio.speed.push_back(gib / (round.resume_seconds - round.warm_seconds));
    ratio.ceiling.push_back(copy_rate);
    swap_ratio.speed.push_back(2 * gib / (round.swap_seconds - round.warm_seconds));
    swap_ratio.ceiling.push_back(copy_rate);
    faster.push_back(round.prefill_seconds / round.resume_seconds);
  }
  fmt::print("resume of a session of {} tokens, {:.0f} MiB, 2 MiB a block\n  {}\n  {}\n",
             options.resume_tokens,
             static_cast<double>(options.resume_tokens) / kBlockSize * kBlockBytes / (1 << 20),
             FormatSeries(ratio),
             FormatSeries(swap_ratio));
  fmt::print("  {:.0f} ms a GiB; {:.0f} times as fast as reading the tokens again\n",
             1e3 / Median(ratio.speed),
             Median(faster));
  return absl::OkStatus();
}

}  // namespace ringserve
