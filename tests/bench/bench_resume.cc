#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <string>
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
constexpr int kSwaps = 4;  // of a round, in pairs
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
    GibPerSecond();  // the first touch of `to`
  }

  double GibPerSecond() {
    const auto begin = std::chrono::steady_clock::now();
    constexpr int64_t kPieces = 8;  // of a block
    constexpr int64_t kBytes = kBlockBytes / kPieces;
    pool_.ParallelFor(num_blocks_ * kPieces, 1, [&](int64_t first, int64_t last) {
      std::memcpy(to_.data() + first * kBytes,
                  from_.data() + first * kBytes,
                  static_cast<size_t>((last - first) * kBytes));
    });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    return Gib(num_blocks_) / took.count();
  }

  static double Gib(int64_t num_blocks) {
    return static_cast<double>(num_blocks * kBlockBytes) / (1 << 30);
  }

 private:
  int64_t num_blocks_;
  HugeBuffer from_;
  HugeBuffer to_;
  ThreadPool& pool_;
};

EngineConfig Config(const SessionsBenchOptions& options) {
  // A prompt's token and one more are what each turn adds.
  const int64_t num_turns = int64_t{options.rounds + 2} * (kWarmTurns + 1) * (kSwaps + 1);
  const int64_t num_blocks = CeilDiv(options.resume_tokens + 2 * num_turns, kBlockSize) + 1;
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

// Turns of two sessions, of which the device holds one.
class ResumeBench {
 public:
  ResumeBench(BenchEngine& bench, CopyCeiling& ceiling, int64_t num_tokens)
      : bench_(bench), ceiling_(ceiling), num_tokens_(num_tokens) {}

  absl::Status Begin() {
    ASSIGN_OR_RETURN(stays_, NewSession());
    return Turn(stays_, num_tokens_).status();
  }

  // Another session comes, trades places with the first, and is closed.
  absl::Status Round() {
    ASSIGN_OR_RETURN(const std::string other, NewSession());
    ASSIGN_OR_RETURN(const double prefill, Turn(other, num_tokens_));
    for (int i = 0; i < kSwaps; ++i) {
      RETURN_IF_ERROR(Measure(i % 2 == 0 ? stays_ : other, swap).status());
    }
    RETURN_IF_ERROR(bench_
                        .Ask([&](SessionReply reply) {
                          bench_.engine().CloseSession("", other, std::move(reply));
                        })
                        .status());
    ASSIGN_OR_RETURN(const double seconds, Measure(stays_, resume));
    faster.push_back(prefill / seconds);
    return absl::OkStatus();
  }

  // The first round touches the host's pages for the first time.
  void Forget() {
    for (BenchSeries* const series : {&resume, &swap}) {
      series->speed.clear();
      series->ceiling.clear();
    }
    faster.clear();
  }

  BenchSeries resume = {"resume from host memory", "GiB/s", {}, {}};
  BenchSeries swap = {"the same, another leaves", "GiB/s", {}, {}};
  std::vector<double> faster;  // than reading the tokens again

 private:
  absl::StatusOr<std::string> NewSession() {
    ASSIGN_OR_RETURN(const SessionInfo info, bench_.Ask([&](SessionReply reply) {
      bench_.engine().CreateSession("", {}, std::move(reply));
    }));
    return info.id;
  }

  // Seconds to its one token.
  absl::StatusOr<double> Turn(const std::string& id, int64_t num_tokens) {
    ASSIGN_OR_RETURN(const BenchStream stream,
                     bench_.Run({.num_tokens = num_tokens, .max_tokens = 1, .session_id = id}));
    if (stream.usage.reprefilled_tokens != 0) {
      return absl::InternalError("tokens were computed a second time");
    }
    return stream.FirstTokenSeconds();
  }

  // A turn that moves blocks, between two readings of the ceiling; its seconds. What turns take
  // that move nothing is the best of those that follow: one may be disturbed.
  absl::StatusOr<double> Measure(const std::string& id, BenchSeries& series) {
    const double before = ceiling_.GibPerSecond();
    const EngineLoad from = bench_.engine().load();
    ASSIGN_OR_RETURN(const double seconds, Turn(id, 1));
    const EngineLoad to = bench_.engine().load();
    series.ceiling.push_back(std::max(before, ceiling_.GibPerSecond()));
    double warm = std::numeric_limits<double>::infinity();
    for (int i = 0; i < kWarmTurns; ++i) {
      ASSIGN_OR_RETURN(const double again, Turn(id, 1));
      warm = std::min(warm, again);
    }
    if (seconds <= warm) {
      return absl::InternalError(
          "a turn that moves blocks took no longer than one that does not: more --resume-tokens "
          "are "
          "needed");
    }
    const int64_t num_moved =
        to.restored_blocks - from.restored_blocks + to.spilled_blocks - from.spilled_blocks;
    series.speed.push_back(CopyCeiling::Gib(num_moved) / (seconds - warm));
    return seconds;
  }

  BenchEngine& bench_;
  CopyCeiling& ceiling_;
  const int64_t num_tokens_;
  std::string stays_;
};

}  // namespace

absl::Status BenchResume(const SessionsBenchOptions& options) {
  ASSIGN_OR_RETURN(const ModelConfig shape, ParseShape(kShape));
  ASSIGN_OR_RETURN(const auto bench, BenchEngine::Create(shape, Config(options)));
  ThreadPool pool(options.num_threads == 0 ? UsableCpus() : options.num_threads);
  const int64_t num_blocks = CeilDiv(options.resume_tokens, kBlockSize);
  CopyCeiling ceiling(num_blocks, pool);
  ResumeBench resume(*bench, ceiling, options.resume_tokens);
  RETURN_IF_ERROR(resume.Begin());
  for (int32_t i = 0; i <= options.rounds; ++i) {
    RETURN_IF_ERROR(resume.Round());
    if (i == 0) {
      resume.Forget();
    }
  }
  fmt::print("resume of a session of {} tokens, {:.0f} MiB, 2 MiB a block\n",
             options.resume_tokens,
             1024 * CopyCeiling::Gib(num_blocks));
  for (const BenchSeries* const series : {&resume.resume, &resume.swap}) {
    fmt::print("  {}\n", FormatSeries(*series));
  }
  fmt::print(
      "  {:.0f} ms a GiB, copying alone {:.0f}; {:.0f} times as fast as reading the tokens "
      "again\n",
      1e3 / Median(resume.resume.speed),
      1e3 / Median(resume.resume.ceiling),
      Median(resume.faster));
  return absl::OkStatus();
}

}  // namespace ringserve
