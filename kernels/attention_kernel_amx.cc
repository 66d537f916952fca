// Attention with Intel's AMX, whose products are tiles of 16 x 16: [rows][keys] of scores are q, as
// it lies, times keys in pairs of dimensions, [rows][dimensions] of outputs are probabilities times
// values in pairs of keys. A score is one chain along head_dim, an output one chain along the keys,
// 32 at a time (amx_inl.h), for any number of rows; few of them go by vectors
// (attention_few_amx.cc). Softmax, packed groups and the order of dimensions are those of
// attention_kernel_bf16.cc.
#include <hwy/base.h>

#include "kernels/attention_kernel.h"
#include "kernels/cpu_features.h"

#if HWY_ARCH_X86_64
#include <algorithm>
#include <cstring>
#include <iterator>

#include "kernels/amx_inl.h"
#include "kernels/attention_bf16_inl.h"
#include "kernels/attention_few_amx.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

constexpr int64_t kTile = kAmxTileRows;
constexpr int64_t kKeyTiles = kGroupKeys / kTile;
constexpr int64_t kKeySteps = kGroupKeys / kAmxStep;
constexpr int64_t kPackedKeyBytes = int64_t{kGroupKeys} * 4;  // of a pair of dimensions
constexpr int64_t kScoreBytes = int64_t{kGroupKeys} * 4;      // of a row
constexpr int64_t kProbabilityBytes = int64_t{kGroupKeys} * 2;
constexpr int32_t kMaxRows = 8;  // of a softmax

// Registers: four tiles of results, the one side of their products, and three for the other side
// in turn.
constexpr int kOne = 4;
constexpr int kTurn = 5;
constexpr int kNumTurns = 3;

// For results, and their one side, of [rows][row_bytes].
void Configure(int64_t rows, int64_t row_bytes) {
  AmxConfig config;
  for (int tile = 0; tile <= kOne; ++tile) {
    config.Set(tile, rows, row_bytes);
  }
  for (int tile = kTurn; tile < kTurn + kNumTurns; ++tile) {
    config.Set(tile, kAmxTileRows, kAmxTileBytes);
  }
  AmxLoadConfig(config);
}

using SoftmaxFunction =
    void (*)(const AttendArgs& args, int32_t row, float* scores, uint32_t* p, float* correction);

constexpr SoftmaxFunction kSoftmaxRows[] = {SoftmaxRows<1>,
                                            SoftmaxRows<2>,
                                            SoftmaxRows<3>,
                                            SoftmaxRows<4>,
                                            SoftmaxRows<5>,
                                            SoftmaxRows<6>,
                                            SoftmaxRows<7>,
                                            SoftmaxRows<8>};
static_assert(std::size(kSoftmaxRows) == kMaxRows);

// Adds p . values to kTiles tiles of dimensions of the rows that the registers are laid out for.
template <int kTiles>
HWY_INLINE void Accumulate(const uint32_t* p,
                           const uint32_t* values,
                           int64_t head_dim,
                           float* acc) {
  const int64_t stride = head_dim * int64_t{sizeof(float)};
  AmxFence();
  ForEach<kTiles>([=](auto tile) { AmxLoad<tile>(acc + tile * kTile, stride); });
  for (int64_t step = 0; step < kKeySteps; ++step) {
    AmxLoad<kOne>(p + step * kTile, kProbabilityBytes);
    ForEach<kTiles>([&](auto tile) {
      constexpr int kNow = kTurn + tile % kNumTurns;
      AmxLoad<kNow>(values + step * kTile * head_dim + tile * kTile, stride);
      AmxDot<tile, kOne, kNow>();
    });
  }
  ForEach<kTiles>([=](auto tile) { AmxStore<tile>(acc + tile * kTile, stride); });
}

void AccumulateAll(const AttendArgs& args, const uint32_t* p, float* acc) {
  const auto* values = static_cast<const uint32_t*>(args.packed_values);
  int64_t dim = 0;
  for (; dim + 4 * kTile <= args.head_dim; dim += 4 * kTile) {
    Accumulate<4>(p, values + dim, args.head_dim, acc + dim);
  }
  if (dim < args.head_dim) {
    Accumulate<2>(p, values + dim, args.head_dim, acc + dim);
  }
}

// scores [rows][keys]
void Scores(const uint16_t* q, const uint32_t* keys, int64_t head_dim, float* scores) {
  ForEach<kKeyTiles>([](auto tile) { AmxZero<tile>(); });
  for (int64_t step = 0; step < head_dim / kAmxStep; ++step) {
    AmxLoad<kOne>(q + step * kAmxStep, head_dim * 2);
    ForEach<kKeyTiles>([=](auto tile) {
      constexpr int kNow = kTurn + tile % kNumTurns;
      AmxLoad<kNow>(keys + step * kTile * kGroupKeys + tile * kTile, kPackedKeyBytes);
      AmxDot<tile, kOne, kNow>();
    });
  }
  ForEach<kKeyTiles>([=](auto tile) { AmxStore<tile>(scores + tile * kTile, kScoreBytes); });
}

// Rows [row, row + num_rows), at most a tile of them.
void AttendTile(const AttendArgs& args, int32_t row, int32_t num_rows) {
  if (args.visible != nullptr && std::all_of(args.visible + row,
                                             args.visible + row + num_rows,
                                             [](uint64_t lanes) { return lanes == 0; })) {
    return;
  }
  alignas(64) float scores[kTile * kGroupKeys];
  alignas(64) uint32_t p[kTile * kPairs];
  float correction[kTile];
  Scores(static_cast<const uint16_t*>(args.q) + int64_t{row} * args.head_dim,
         static_cast<const uint32_t*>(args.packed_keys),
         args.head_dim,
         scores);
  for (int32_t done = 0; done < num_rows; done += kMaxRows) {
    const int32_t rows = std::min(num_rows - done, kMaxRows);
    kSoftmaxRows[rows - 1](args,
                           row + done,
                           scores + int64_t{done} * kGroupKeys,
                           p + int64_t{done} * kPairs,
                           correction + done);
  }
  float* acc = args.acc + int64_t{row} * args.head_dim;
  RescaleAmx(num_rows, args.head_dim, correction, acc);
  AccumulateAll(args, p, acc);
}

// The whole of the next group is fetched meanwhile, into the second level.
void Attend(const AttendArgs& args) {
  const int32_t num_tiles = CeilDiv(args.num_rows, static_cast<int32_t>(kTile));
  const int32_t row_bytes = 2 * args.head_dim;
  const int32_t num_lines = CeilDiv(kGroupKeys * CeilDiv(row_bytes, 64), num_tiles);
  LineFetcher<2> keys(args.next, 0, kGroupKeys, row_bytes);
  LineFetcher<2> values(args.next_values, 0, kGroupKeys, row_bytes);
  int32_t row = 0;
  int32_t rows_before = 0;
  AmxFence();
  for (int32_t tile = 0; tile < num_tiles; ++tile) {
    const int32_t rows = CeilDiv(args.num_rows - row, num_tiles - tile);
    if (rows != rows_before) {
      Configure(rows, kAmxTileBytes);
      rows_before = rows;
    }
    keys.Fetch(num_lines);
    values.Fetch(num_lines);
    AttendTile(args, row, rows);
    row += rows;
  }
  AmxRelease();
}

}  // namespace
}  // namespace ringserve

HWY_POP_ATTRIBUTES

namespace ringserve {

const AttentionKernel* AttentionKernelAmx() {
  static const AttentionKernel kernel = [] {
    AttentionKernel amx;
    if (HasAmxBf16()) {
      amx = *AttentionKernelBf16();
      amx.attend = Attend;
      amx.score_few = ScoreFewAmx;
      amx.accumulate_few = AccumulateFewAmx;
      amx.max_few = kMaxFewAmx;
    }
    return amx;
  }();
  return HasAmxBf16() ? &kernel : nullptr;
}

}  // namespace ringserve

#else

namespace ringserve {

const AttentionKernel* AttentionKernelAmx() {
  return nullptr;
}

}  // namespace ringserve

#endif
