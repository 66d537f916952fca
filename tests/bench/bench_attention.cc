#include "tests/bench/bench_attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "engine/base/check.h"
#include "engine/plan/tile_planner.h"
#include "kernels/attention.h"
#include "kernels/thread_pool.h"
#include "tests/bench/ceiling.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

// Far more than caches hold.
constexpr int64_t kColdBytes = int64_t{1} << 29;

template <typename Body>
double Seconds(const Body& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// One sequence whose context ends with num_rows query rows, its blocks in random places.
class Sequence {
 public:
  Sequence(const AttentionBenchShape& shape,
           int64_t num_rows,
           int32_t num_layers,
           const ThreadPool& pool)
      : layout_{.block_size = shape.block_size,
                .num_layers = num_layers,
                .num_kv_heads = shape.num_kv_heads,
                .head_dim = shape.head_dim,
                .dtype = shape.dtype},
        num_blocks_(CeilDiv<int64_t>(shape.num_keys, shape.block_size)),
        memory_(num_blocks_ * layout_.block_bytes()),
        q_(num_rows * shape.num_heads * shape.head_dim * DTypeBytes(shape.dtype)),
        out_(q_.num_bytes()) {
    Fill(memory_);
    Fill(q_);
    MakePlan(shape, num_rows, pool);
    args_.plan = &plan_;
    args_.q = q_.data();
    args_.kv = {.pool = memory_.data(), .layout = layout_};
    args_.out = out_.data();
    args_.q_stride = int64_t{shape.num_heads} * shape.head_dim;
    args_.out_stride = args_.q_stride;
    args_.num_heads = shape.num_heads;
    args_.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    args_.q_dtype = shape.dtype;
    args_.out_dtype = shape.dtype;
    workspace_.resize(plan_.num_partials * (shape.head_dim + 2));
    args_.workspace = workspace_.data();
    RS_CHECK(CheckAttentionArgs(args_) == nullptr);
  }

  // All layers.
  void Attend(ThreadPool& pool) {
    for (args_.kv.layer = 0; args_.kv.layer < layout_.num_layers; ++args_.kv.layer) {
      AttentionCpu(args_, pool);
    }
  }

  const HugeBuffer& memory() const { return memory_; }

 private:
  // Ordinary numbers of both signs, in either type, again and again.
  static void Fill(const HugeBuffer& buffer) {
    constexpr int64_t kBlock = int64_t{64} << 10;
    Random random(1);
    for (int64_t i = 0; i < kBlock / 8; ++i) {
      const uint64_t word = (random.Bits() & 0x80ff80ff80ff80ffULL) | 0x3e003e003e003e00ULL;
      std::memcpy(buffer.data() + 8 * i, &word, sizeof(word));
    }
    for (int64_t at = kBlock; at < buffer.num_bytes(); at += kBlock) {
      std::memcpy(buffer.data() + at, buffer.data(), kBlock);
    }
  }

  void MakePlan(const AttentionBenchShape& shape, int64_t num_rows, const ThreadPool& pool) {
    std::vector<BlockEntry> entries(num_blocks_);
    Random random(2);
    for (int64_t i = 0; i < num_blocks_; ++i) {
      entries[i].block = static_cast<int32_t>(i);
      std::swap(entries[i].block, entries[random.Int(0, i)].block);
      entries[i].position = i * shape.block_size;
      entries[i].num_keys = static_cast<int32_t>(
          std::min<int64_t>(shape.block_size, shape.num_keys - entries[i].position));
    }
    const TileSequence sequence = {.num_rows = static_cast<int32_t>(num_rows),
                                   .first_position = shape.num_keys - num_rows,
                                   .num_entries = static_cast<int32_t>(num_blocks_)};
    PlanTiles({.sequences = {&sequence, 1}, .entries = entries},
              {.num_heads = shape.num_heads,
               .num_kv_heads = shape.num_kv_heads,
               .num_workers = pool.num_threads()},
              plan_);
  }

  KvLayout layout_;
  int64_t num_blocks_;
  HugeBuffer memory_;
  HugeBuffer q_;
  HugeBuffer out_;
  TilePlan plan_;
  std::vector<float> workspace_;
  AttentionArgs args_;
};

}  // namespace

std::vector<BenchSeries> BenchAttention(const AttentionBenchShape& shape,
                                        int32_t num_rounds,
                                        ThreadPool& pool) {
  const int64_t layer_bytes =
      2 * shape.num_keys * shape.num_kv_heads * shape.head_dim * DTypeBytes(shape.dtype);
  const auto num_layers = static_cast<int32_t>(CeilDiv(kColdBytes, layer_bytes));
  Sequence decode(shape, 1, num_layers, pool);
  Sequence prefill(shape, shape.prefill_rows, 1, pool);
  const auto what = fmt::format("head_dim {}, {} keys", shape.head_dim, shape.num_keys);
  BenchSeries decoding;
  decoding.name = "decode attention, " + what;
  decoding.unit = "GB/s";
  BenchSeries prefilling;
  prefilling.name = fmt::format("attention of {} rows, {}", shape.prefill_rows, what);
  prefilling.unit = "GFLOP/s";
  // Row i of the last prefill_rows sees num_keys - prefill_rows + i + 1 keys.
  const double rows = shape.prefill_rows;
  const double pairs = rows * (static_cast<double>(shape.num_keys) - (rows - 1) / 2);
  const double flops = 4 * pairs * shape.num_heads * shape.head_dim;
  for (int32_t round = 0; round < num_rounds; ++round) {
    const double before = ReadGbps(decode.memory(), pool);
    const double decode_seconds = Seconds([&] { decode.Attend(pool); });
    decoding.ceiling.push_back(std::max(before, ReadGbps(decode.memory(), pool)));
    decoding.speed.push_back(static_cast<double>(layer_bytes * num_layers) / decode_seconds / 1e9);
    double ceiling_flops = 0;
    const double ceiling_seconds =
        Seconds([&] { ceiling_flops = MultiplyInRegisters(shape.dtype, pool); });
    prefilling.ceiling.push_back(ceiling_flops / ceiling_seconds / 1e9);
    prefilling.speed.push_back(flops / Seconds([&] { prefill.Attend(pool); }) / 1e9);
  }
  return {decoding, prefilling};
}

}  // namespace ringserve
