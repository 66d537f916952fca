// Few rows, AMX: one product of tiles after the other by fused multiply-adds (amx_sums_inl.h), from
// keys and values as they lie. The same bits as attention_kernel_amx.cc. Tiles take a group several
// times as fast as memory delivers it, but in bursts, between which memory rests: they read half of
// what it gives (Xeon, Sapphire Rapids, two threads).
#include "kernels/attention_few_amx.h"

#include <hwy/base.h>

#if HWY_ARCH_X86_64
#include <algorithm>
#include <iterator>
#include <type_traits>

#include "kernels/amx_sums_inl.h"
#include "kernels/attention_bf16_inl.h"
#include "kernels/attention_few_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

constexpr int32_t kStepPairs = kAmxStep / 2;
static_assert(kHalfPairs == kStepPairs);  // half a group of keys is one product of tiles

// Rows whose sums fit into the registers; more go in two passes over what the caches then hold.
constexpr int32_t kPassRows = 4;

// Pairs of one side, widened: [kPassRows][count], even then odd.
template <int64_t kCount>
struct WidePairs {
  alignas(64) float even[kPassRows * kCount];
  alignas(64) float odd[kPassRows * kCount];

  // Rows of `count` pairs, a multiple of 16.
  template <int R>
  HWY_INLINE void Fill(const uint32_t* pairs, int64_t count) {
    for (int64_t i = 0; i < R * count; i += 16) {
      const EvenOdd wide = Split(_mm512_loadu_si512(pairs + i));
      _mm512_store_ps(even + i, wide.even);
      _mm512_store_ps(odd + i, wide.odd);
    }
  }

  HWY_INLINE EvenOdd Broadcast(int64_t i) const {
    // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): Fill has been there
    return {_mm512_set1_ps(even[i]), _mm512_set1_ps(odd[i])};
  }
};

// scores[r][key] = q of row r . key, for 16 keys as they lie.
template <int R, class Rows, class Fetcher>
HWY_INLINE void ScoreKeys(const Rows& rows,
                          const WidePairs<128>& q,
                          float* scores,
                          Fetcher& fetcher) {
  const int32_t pairs = rows.head_dim() / 2;
  __m512 total[R];
  HWY_UNROLL(4)
  for (int64_t r = 0; r < R; ++r) {
    total[r] = _mm512_setzero_ps();
  }
  for (int64_t step = 0; step < pairs; step += kStepPairs) {
    AmxSums sums[R];
    for (int64_t pair = step; pair < step + kStepPairs; pair += 8) {
      __m512i block[8];
      LoadTransposed<8>(rows, pair, block);
      HWY_UNROLL(8)
      for (int64_t i = 0; i < 8; ++i) {
        fetcher.Step();
        const EvenOdd key = Split(block[i]);
        HWY_UNROLL(4)
        for (int64_t r = 0; r < R; ++r) {
          sums[r].Add(key, q.Broadcast(r * pairs + pair + i));
        }
      }
    }
    HWY_UNROLL(4)
    for (int64_t r = 0; r < R; ++r) {
      total[r] = _mm512_add_ps(total[r], sums[r].Total());
    }
  }
  HWY_UNROLL(4)
  for (int64_t r = 0; r < R; ++r) {
    _mm512_store_ps(scores + r * kGroupKeys, total[r]);
  }
}

// The second pass over what the first has fetched.
struct NoFetcher {
  template <class Rows>
  NoFetcher(const Rows& /*rows*/, int64_t /*half*/) {}

  HWY_INLINE void Step() {}
};

template <bool kFetch, class Rows, int32_t kLines>
using FetcherOf =
    std::conditional_t<kFetch, typename Rows::template Fetcher<kLines, true>, NoFetcher>;

// R rows from `row` on.
template <int R, bool kFetch, class Rows>
void ScoreRows(const AttendArgs& args, int32_t row) {
  const Rows rows(args.key_rows, args.next, args.head_dim);
  const int64_t pairs = rows.head_dim() / 2;
  WidePairs<128> q;
  q.Fill<R>(static_cast<const uint32_t*>(args.q) + row * pairs, pairs);
  alignas(64) float scores[R * kGroupKeys];
  {
    const SubnormalsAsZero as_zero;
    for (int64_t half = 0; half < 2; ++half) {
      FetcherOf<kFetch, Rows, 1> fetcher(rows, half);
      for (int64_t key = half * kHalf; key < (half + 1) * kHalf; key += 16) {
        ScoreKeys<R>(rows.From(key), q, scores + key, fetcher);
      }
    }
  }
  SoftmaxRows<R>(args,
                 row,
                 scores,
                 reinterpret_cast<uint32_t*>(args.probabilities) + int64_t{row} * kPairs,
                 args.correction + row);
}

// Adds what half a group of keys from `pair` on gives to 32 dimensions from `dim` on.
template <int R, class Rows, class Fetcher>
HWY_INLINE void AddHalf(const Rows& rows,
                        const WidePairs<kPairs>& p,
                        int64_t dim,
                        int64_t pair,
                        float* acc,
                        Fetcher& fetcher) {
  AmxSums low[R];
  AmxSums high[R];
  for (int64_t i = pair; i < pair + kHalfPairs; ++i) {
    fetcher.Step();
    const __m512i a = _mm512_loadu_si512(rows[2 * i] + 2 * dim);
    const __m512i b = _mm512_loadu_si512(rows[2 * i + 1] + 2 * dim);
    const EvenOdd value_low = Split(PairLow(a, b));
    const EvenOdd value_high = Split(PairHigh(a, b));
    HWY_UNROLL(4)
    for (int64_t r = 0; r < R; ++r) {
      const EvenOdd probability = p.Broadcast(r * kPairs + i);
      low[r].Add(value_low, probability);
      high[r].Add(value_high, probability);
    }
  }
  const int64_t head_dim = rows.head_dim();
  HWY_UNROLL(4)
  for (int64_t r = 0; r < R; ++r) {
    float* at = acc + r * head_dim + dim;
    _mm512_store_ps(at, _mm512_add_ps(_mm512_load_ps(at), low[r].Total()));
    _mm512_store_ps(at + 16, _mm512_add_ps(_mm512_load_ps(at + 16), high[r].Total()));
  }
}

template <int R, bool kFetch, class Rows>
void AccumulateRows(const AttendArgs& args, int32_t row) {
  const Rows rows(args.value_rows, args.next, args.head_dim);
  const int64_t head_dim = rows.head_dim();
  float* acc = args.acc + int64_t{row} * head_dim;
  RescaleAmx(R, head_dim, args.correction + row, acc);
  WidePairs<kPairs> p;
  p.Fill<R>(reinterpret_cast<const uint32_t*>(args.probabilities) + int64_t{row} * kPairs, kPairs);
  const SubnormalsAsZero as_zero;
  for (int64_t half = 0; half < 2; ++half) {
    FetcherOf<kFetch, Rows, 2> fetcher(rows, half);
    for (int64_t dim = 0; dim < head_dim; dim += 32) {
      AddHalf<R>(rows, p, dim, half * kHalfPairs, acc, fetcher);
    }
  }
}

using FewFunction = void (*)(const AttendArgs&, int32_t row);

template <bool kFetch, class Rows>
constexpr FewFunction kScoreRows[] = {ScoreRows<1, kFetch, Rows>,
                                      ScoreRows<2, kFetch, Rows>,
                                      ScoreRows<3, kFetch, Rows>,
                                      ScoreRows<4, kFetch, Rows>};
template <bool kFetch, class Rows>
constexpr FewFunction kAccumulateRows[] = {AccumulateRows<1, kFetch, Rows>,
                                           AccumulateRows<2, kFetch, Rows>,
                                           AccumulateRows<3, kFetch, Rows>,
                                           AccumulateRows<4, kFetch, Rows>};
static_assert(std::size(kScoreRows<true, ListedRows>) == kPassRows);
static_assert(2 * kPassRows == kMaxFewAmx);

template <class Rows>
void Score(const AttendArgs& args) {
  const int32_t first = std::min(args.num_rows, kPassRows);
  kScoreRows<true, Rows>[first - 1](args, 0);
  if (args.num_rows > first) {
    kScoreRows<false, Rows>[args.num_rows - first - 1](args, first);
  }
}

template <class Rows>
void Accumulate(const AttendArgs& args) {
  const int32_t first = std::min(args.num_rows, kPassRows);
  kAccumulateRows<true, Rows>[first - 1](args, 0);
  if (args.num_rows > first) {
    kAccumulateRows<false, Rows>[args.num_rows - first - 1](args, first);
  }
}

}  // namespace

void ScoreFewAmx(const AttendArgs& args) {
  switch (DenseDim(args.key_rows, args)) {
    case 64:
      return Score<DenseRows<64>>(args);
    case 128:
      return Score<DenseRows<128>>(args);
    default:
      return Score<ListedRows>(args);
  }
}

void AccumulateFewAmx(const AttendArgs& args) {
  switch (DenseDim(args.value_rows, args)) {
    case 64:
      return Accumulate<DenseRows<64>>(args);
    case 128:
      return Accumulate<DenseRows<128>>(args);
    default:
      return Accumulate<ListedRows>(args);
  }
}

void RescaleAmx(int64_t num_rows, int64_t head_dim, const float* correction, float* acc) {
  for (int64_t row = 0; row < num_rows; ++row) {
    if (correction[row] == 1) {
      continue;
    }
    const __m512 factor = _mm512_set1_ps(correction[row]);
    for (int64_t dim = 0; dim < head_dim; dim += 16) {
      float* at = acc + row * head_dim + dim;
      _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), factor));
    }
  }
}

}  // namespace ringserve

HWY_POP_ATTRIBUTES

#endif
