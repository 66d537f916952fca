#include "tests/bench/attention_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <sys/mman.h>
#include <vector>

#include "engine/base/check.h"
#include "engine/plan/tile_planner.h"
#include "kernels/attention.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

// Larger than any cache of today's servers by much.
constexpr int64_t kColdBytes = int64_t{1} << 29;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Memory in huge pages where the system gives them, written once.
class ColdMemory {
 public:
  explicit ColdMemory(int64_t bytes) : bytes_(bytes) {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    RS_CHECK(data != MAP_FAILED);
    madvise(data, bytes, MADV_HUGEPAGE);  // only a hint: without it the figures are lower
    data_ = static_cast<std::byte*>(data);
    // Small bf16 (and float32) numbers of both signs.
    Random random(1);
    std::vector<uint64_t> pattern(1 << 13);
    for (uint64_t& word : pattern) {
      word = (random.Bits() & 0x80ff80ff80ff80ffULL) | 0x3e003e003e003e00ULL;
    }
    for (int64_t at = 0; at < bytes; at += static_cast<int64_t>(pattern.size() * 8)) {
      std::memcpy(data_ + at, pattern.data(), std::min<int64_t>(bytes - at, pattern.size() * 8));
    }
  }

  ~ColdMemory() { munmap(data_, bytes_); }

  ColdMemory(const ColdMemory&) = delete;
  ColdMemory& operator=(const ColdMemory&) = delete;

  std::byte* data() const { return data_; }

  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Reads [first, last) once; four streams keep more lines in flight than one.
uint64_t Read(const uint64_t* first, const uint64_t* last) {
  const int64_t quarter = (last - first) / 4 / 8 * 8;
  uint64_t sums[8] = {};
  for (int64_t i = 0; i < quarter; i += 8) {
    for (int64_t stream = 0; stream < 4; ++stream) {
      const uint64_t* line = first + stream * quarter + i;
      for (int64_t word = 0; word < 8; ++word) {
        sums[word] += line[word];
      }
    }
  }
  return std::accumulate(sums, sums + 8, uint64_t{0});
}

double ReadRate(const ColdMemory& memory, ThreadPool& pool) {
  constexpr int64_t kPiece = int64_t{1} << 20;
  const auto* words = reinterpret_cast<const uint64_t*>(memory.data());
  std::vector<uint64_t> sums(memory.bytes() / kPiece);
  const double start = Seconds();
  pool.ParallelFor(static_cast<int64_t>(sums.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      sums[i] = Read(words + i * kPiece / 8, words + (i + 1) * kPiece / 8);
    }
  });
  const double seconds = Seconds() - start;
  // The sums must not look unused.
  RS_CHECK(std::accumulate(sums.begin(), sums.end(), uint64_t{0}) != 1);
  return static_cast<double>(sums.size() * kPiece) / seconds;
}

// One sequence whose context ends with num_rows query rows.
struct Bench {
  Bench(const AttentionBenchShape& shape,
        int64_t num_rows,
        int64_t num_keys,
        int32_t num_layers,
        const ColdMemory& memory,
        const ThreadPool& pool) {
    args.kv.pool = memory.data();
    args.kv.layout = {.block_size = shape.block_size,
                      .num_layers = num_layers,
                      .num_kv_heads = shape.num_kv_heads,
                      .head_dim = shape.head_dim,
                      .dtype = shape.dtype};
    const auto num_blocks = static_cast<int32_t>(CeilDiv<int64_t>(num_keys, shape.block_size));
    RS_CHECK(num_blocks * args.kv.layout.block_bytes() <= memory.bytes());
    std::vector<BlockEntry> entries(num_blocks);
    Random random(2);
    for (int32_t i = 0; i < num_blocks; ++i) {
      entries[i].block = i;
      std::swap(entries[i].block, entries[random.Int(0, i)].block);
      entries[i].position = int64_t{i} * shape.block_size;
      entries[i].num_keys =
          static_cast<int32_t>(std::min<int64_t>(shape.block_size, num_keys - entries[i].position));
    }
    const TileSequence sequence = {.num_rows = static_cast<int32_t>(num_rows),
                                   .first_position = num_keys - num_rows,
                                   .num_entries = num_blocks};
    PlanTiles({.sequences = {&sequence, 1}, .entries = entries},
              {.num_heads = shape.num_heads,
               .num_kv_heads = shape.num_kv_heads,
               .num_workers = pool.num_threads()},
              plan);
    workspace.resize(plan.num_partials * (shape.head_dim + 2));
    const int64_t row_size = int64_t{shape.num_heads} * shape.head_dim;
    q.resize(num_rows * row_size * DTypeBytes(shape.dtype));
    RS_CHECK(static_cast<int64_t>(q.size()) <= memory.bytes());
    std::memcpy(q.data(), memory.data(), q.size());
    out.resize(q.size());
    args.plan = &plan;
    args.q = q.data();
    args.out = out.data();
    args.q_stride = row_size;
    args.out_stride = row_size;
    args.num_heads = shape.num_heads;
    args.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    args.q_dtype = shape.dtype;
    args.out_dtype = shape.dtype;
    args.workspace = workspace.data();
    RS_CHECK(CheckAttentionArgs(args) == nullptr);
  }

  double Run(ThreadPool& pool) {
    const double start = Seconds();
    for (args.kv.layer = 0; args.kv.layer < args.kv.layout.num_layers; ++args.kv.layer) {
      AttentionCpu(args, pool);
    }
    return Seconds() - start;
  }

  TilePlan plan;
  std::vector<float> workspace;
  std::vector<std::byte> q, out;
  AttentionArgs args;
};

}  // namespace

double MeasureReadBandwidth(ThreadPool& pool) {
  const ColdMemory memory(kColdBytes);
  std::vector<double> rates;
  for (int32_t round = 0; round < 7; ++round) {
    rates.push_back(ReadRate(memory, pool));
  }
  return Median(rates);
}

DecodeAttentionResult MeasureDecodeAttention(const AttentionBenchShape& shape,
                                             int64_t num_keys,
                                             int32_t rounds,
                                             ThreadPool& pool) {
  const int64_t layer_bytes =
      2 * num_keys * shape.num_kv_heads * shape.head_dim * DTypeBytes(shape.dtype);
  const auto num_layers = static_cast<int32_t>(CeilDiv(kColdBytes, layer_bytes));
  const int64_t slack = int64_t{4} * shape.block_size * layer_bytes / num_keys * num_layers;
  const ColdMemory memory(layer_bytes * num_layers + slack);
  Bench bench(shape, 1, num_keys, num_layers, memory, pool);
  std::vector<double> attention;
  std::vector<double> reading;
  for (int32_t round = 0; round < rounds; ++round) {
    const double before = ReadRate(memory, pool);
    attention.push_back(static_cast<double>(layer_bytes * num_layers) / bench.Run(pool));
    reading.push_back(before);
  }
  return {Median(attention), Median(reading)};
}

double MeasurePrefillAttention(const AttentionBenchShape& shape,
                               int64_t num_rows,
                               int64_t num_keys,
                               int32_t rounds,
                               ThreadPool& pool) {
  const int64_t row_bytes = int64_t{shape.head_dim} * DTypeBytes(shape.dtype);
  const ColdMemory memory(
      std::max((num_keys + shape.block_size) * 2 * shape.num_kv_heads * row_bytes,
               num_rows * shape.num_heads * row_bytes));
  Bench bench(shape, num_rows, num_keys, 1, memory, pool);
  std::vector<double> rates;
  for (int32_t round = 0; round < rounds; ++round) {
    const double pairs = static_cast<double>(num_rows) *
                         (static_cast<double>(num_keys) - static_cast<double>(num_rows - 1) / 2);
    rates.push_back(4 * pairs * shape.num_heads * shape.head_dim / bench.Run(pool));
  }
  return Median(rates);
}

}  // namespace ringserve
