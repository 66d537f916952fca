// Few rows, bf16: the dot products of attention_kernel_bf16.cc from keys and values as they lie,
// transposed or paired up in registers. The same bits.
#include "kernels/attention_few_bf16.h"

#include <hwy/base.h>

#if HWY_ARCH_X86_64
#include <algorithm>
#include <iterator>

#include "kernels/attention_bf16_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

// Probabilities between the two parts: kPairs of each row.
uint32_t* Pairs(const AttendArgs& args) {
  return reinterpret_cast<uint32_t*>(args.probabilities);
}

constexpr int32_t kHalf = kGroupKeys / 2;  // keys
constexpr int32_t kHalfPairs = kHalf / 2;

// How planes are read and fetched. Few rows pass a plane about as fast as memory delivers it. What
// they read next therefore goes into the first level while they read this, in the order in which it
// lies, some 8 KiB ahead, in steps as fine as the work allows: bursts fill its miss buffers and
// stop the loads behind them. Further ahead, in the order of reading, or into the second level, all
// are worse (AMD EPYC, Zen 5).

// Rows wherever they lie; beside them what is read after them.
class ListedRows {
 public:
  ListedRows(const PlaneRows& plane, const PlaneRows& next, int32_t head_dim)
      : plane_(plane), next_(next), head_dim_(head_dim) {}

  HWY_INLINE const std::byte* operator[](int64_t row) const { return plane_[row]; }

  HWY_INLINE ListedRows From(int64_t row) const { return {plane_.From(row), next_, head_dim_}; }

  int32_t head_dim() const { return head_dim_; }

  // Fetches half of what is read next, kLines lines at each step.
  template <int32_t kLines>
  class Fetcher {
   public:
    HWY_INLINE Fetcher(const ListedRows& rows, int64_t half)
        : lines_(rows.next_, half * kHalf, kHalf, 2 * rows.head_dim_) {}

    HWY_INLINE void Step() { lines_.Fetch(kLines); }

   private:
    LineFetcher<3> lines_;
  };

 private:
  PlaneRows plane_;
  PlaneRows next_;
  int32_t head_dim_;
};

// Rows without gaps, of a size that is known when this is compiled: no address is computed.
template <int32_t kHeadDim>
class DenseRows {
 public:
  DenseRows(const PlaneRows& plane, const PlaneRows& next, int32_t /*head_dim*/)
      : first_(plane.first), next_(next.empty() ? first_ : next.first) {}

  HWY_INLINE const std::byte* operator[](int64_t row) const { return first_ + row * kRowBytes; }

  HWY_INLINE DenseRows From(int64_t row) const { return DenseRows((*this)[row], next_); }

  static constexpr int32_t head_dim() { return kHeadDim; }

  // Fetches what is read half a plane from now, kLines lines at each step. Small planes are fetched
  // a whole plane ahead and then once more, since a prefetch is dropped when the miss buffers are
  // full. Where the next plane lies elsewhere, as it does after the last one of a block, its first
  // lines come early: nothing in the machine expects them. Decode at 8k keys reads 0.83 and 0.88 of
  // sequential reading with all this (head_dim 64 and 128, two threads at 84 GB/s); fetched one
  // plane ahead, both sizes read 0.82.
  template <int32_t kLines>
  class Fetcher {
   public:
    HWY_INLINE Fetcher(const DenseRows& rows, int64_t half)
        : far_(rows.next_ + half * kHalf * kRowBytes), near_(half == 0 ? rows[kHalf] : rows.next_) {
      if (half == 0 && rows.next_ != rows[kGroupKeys]) {
        for (int32_t line = 0; line < kEarlyLines; ++line) {
          _mm_prefetch(rows.next_ + 64 * line, _MM_HINT_T0);
        }
      }
    }

    HWY_INLINE void Step() {
      HWY_UNROLL(4)
      for (int32_t line = 0; line < kLines; ++line) {
        if constexpr (kIsSmall) {
          _mm_prefetch(far_ + 64 * line, _MM_HINT_T0);
        }
        _mm_prefetch(near_ + 64 * line, _MM_HINT_T0);
      }
      far_ += int64_t{64} * kLines;
      near_ += int64_t{64} * kLines;
    }

   private:
    static constexpr bool kIsSmall = 2 * kHeadDim * kHalf < 8192;
    static constexpr int32_t kEarlyLines = 32;

    const std::byte* far_;
    const std::byte* near_;
  };

 private:
  static constexpr int64_t kRowBytes = 2 * kHeadDim;

  DenseRows(const std::byte* first, const std::byte* next) : first_(first), next_(next) {}

  const std::byte* first_;
  const std::byte* next_;
};

// Adds pairs [pair, pair + kCount) of kBlocks times 16 keys to their scores.
template <int R, int kBlocks, int kCount, class Rows, class Fetcher>
HWY_INLINE void AddPairs(const Rows& rows,
                         const uint32_t* q,
                         int64_t pair,
                         __m512 (&sum)[kBlocks][R],
                         Fetcher& fetcher) {
  const int32_t pairs = rows.head_dim() / 2;
  __m512i block[kBlocks][8];
  HWY_UNROLL(2)
  for (int64_t b = 0; b < kBlocks; ++b) {
    LoadTransposed<kCount>(rows.From(16 * b), pair, block[b]);
  }
  HWY_UNROLL(8)
  for (int64_t i = 0; i < kCount; ++i) {
    fetcher.Step();
    HWY_UNROLL(8)
    for (int64_t r = 0; r < R; ++r) {
      const __m512bh element = Broadcast(q + int64_t{r} * pairs + pair + i);
      HWY_UNROLL(2)
      for (int64_t b = 0; b < kBlocks; ++b) {
        sum[b][r] = _mm512_dpbf16_ps(sum[b][r], AsBf16(block[b][i]), element);
      }
    }
  }
}

// scores[r][key] = q of row r . key, for kBlocks times 16 keys as they lie.
template <int R, int kBlocks, class Rows, class Fetcher>
HWY_INLINE void ScoreBlocks(const Rows& rows, const uint32_t* q, float* scores, Fetcher& fetcher) {
  __m512 sum[kBlocks][R];
  HWY_UNROLL(2)
  for (int64_t b = 0; b < kBlocks; ++b) {
    HWY_UNROLL(8)
    for (int64_t r = 0; r < R; ++r) {
      sum[b][r] = _mm512_setzero_ps();
    }
  }
  const int32_t pairs = rows.head_dim() / 2;
  int64_t pair = 0;
  for (; pair + 8 <= pairs; pair += 8) {
    AddPairs<R, kBlocks, 8>(rows, q, pair, sum, fetcher);
  }
  if (pair < pairs) {
    AddPairs<R, kBlocks, 4>(rows, q, pair, sum, fetcher);
  }
  HWY_UNROLL(2)
  for (int64_t b = 0; b < kBlocks; ++b) {
    HWY_UNROLL(8)
    for (int64_t r = 0; r < R; ++r) {
      _mm512_store_ps(scores + r * kGroupKeys + 16 * b, sum[b][r]);
    }
  }
}

template <int R, class Rows>
void ScoreRows(const AttendArgs& args) {
  // Few rows are few chains of products, too few to hide their latency: two blocks of keys then
  // run side by side.
  constexpr int32_t kBlocks = R <= 4 ? 2 : 1;
  const Rows rows(args.key_rows, args.next, args.head_dim);
  const auto* q = static_cast<const uint32_t*>(args.q);
  alignas(64) float scores[R * kGroupKeys];
  for (int64_t half = 0; half < 2; ++half) {
    typename Rows::template Fetcher<kBlocks> fetcher(rows, half);
    for (int64_t key = half * kHalf; key < (half + 1) * kHalf; key += 16 * kBlocks) {
      ScoreBlocks<R, kBlocks>(rows.From(key), q, scores + key, fetcher);
    }
  }
  SoftmaxRows<R>(args, 0, scores, Pairs(args), args.correction);
}

// Accumulates kHalfPairs pairs of values as they lie, from `pair` on, for V vectors of dimensions
// from `dim` on.
template <int R, int64_t V, class Rows, class Fetcher>
HWY_INLINE void AccumulateHalf(
    const AttendArgs& args, const Rows& rows, int64_t dim, int64_t pair, Fetcher& fetcher) {
  const int32_t padded = RoundUp(rows.head_dim(), kDimUnit);
  float* acc = args.acc + dim;
  const uint32_t* p = Pairs(args);
  __m512 sum[R][V];
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t v = 0; v < V; ++v) {
      sum[r][v] = _mm512_load_ps(acc + int64_t{r} * padded + 16 * v);
      if (pair == 0) {
        sum[r][v] =
            _mm512_fmadd_ps(sum[r][v], _mm512_set1_ps(args.correction[r]), _mm512_setzero_ps());
      }
    }
  }
  const int64_t last = std::min<int64_t>(32, rows.head_dim() - dim - 16 * (V - 2));
  const auto mask = static_cast<__mmask32>((uint64_t{1} << last) - 1);
  for (int64_t i = pair; i < pair + kHalfPairs; ++i) {
    fetcher.Step();
    __m512i value[V];
    for (int64_t v = 0; v < V; v += 2) {
      const int64_t offset = 2 * (int64_t{dim} + 16 * v);
      const __mmask32 part = v + 2 == V ? mask : ~__mmask32{0};
      const __m512i a = _mm512_maskz_loadu_epi16(part, rows[2 * i] + offset);
      const __m512i b = _mm512_maskz_loadu_epi16(part, rows[2 * i + 1] + offset);
      value[v] = PairLow(a, b);
      value[v + 1] = PairHigh(a, b);
    }
    for (int64_t r = 0; r < R; ++r) {
      const __m512bh both = Broadcast(p + r * kPairs + i);
      for (int64_t v = 0; v < V; ++v) {
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], AsBf16(value[v]), both);
      }
    }
  }
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t v = 0; v < V; ++v) {
      _mm512_store_ps(acc + int64_t{r} * padded + 16 * v, sum[r][v]);
    }
  }
}

// Half a group after the other, so that lines are read about in the order in which they lie.
template <int R, class Rows>
void AccumulateRows(const AttendArgs& args) {
  constexpr int64_t V = R <= 4 ? 4 : 2;
  const Rows rows(args.value_rows, args.next, args.head_dim);
  for (int64_t half = 0; half < 2; ++half) {
    const int64_t pair = half * kHalfPairs;
    typename Rows::template Fetcher<V> fetcher(rows, half);
    int64_t dim = 0;
    for (; dim + 16 * V <= rows.head_dim(); dim += 16 * V) {
      AccumulateHalf<R, V>(args, rows, dim, pair, fetcher);
    }
    for (; dim < rows.head_dim(); dim += 32) {
      AccumulateHalf<R, 2>(args, rows, dim, pair, fetcher);
    }
  }
}

using FewFunction = void (*)(const AttendArgs&);

template <class Rows>
constexpr FewFunction kScoreRows[] = {ScoreRows<1, Rows>,
                                      ScoreRows<2, Rows>,
                                      ScoreRows<3, Rows>,
                                      ScoreRows<4, Rows>,
                                      ScoreRows<5, Rows>,
                                      ScoreRows<6, Rows>,
                                      ScoreRows<7, Rows>,
                                      ScoreRows<8, Rows>};
template <class Rows>
constexpr FewFunction kAccumulateRows[] = {AccumulateRows<1, Rows>,
                                           AccumulateRows<2, Rows>,
                                           AccumulateRows<3, Rows>,
                                           AccumulateRows<4, Rows>,
                                           AccumulateRows<5, Rows>,
                                           AccumulateRows<6, Rows>,
                                           AccumulateRows<7, Rows>,
                                           AccumulateRows<8, Rows>};
static_assert(std::size(kScoreRows<ListedRows>) == kMaxFewBf16);
static_assert(std::size(kAccumulateRows<ListedRows>) == kMaxFewBf16);

// The head dimension if both planes are dense, else 0.
int32_t DenseDim(const PlaneRows& rows, const AttendArgs& args) {
  return rows.dense() && args.next.dense() ? args.head_dim : 0;
}

}  // namespace

void ScoreFewBf16(const AttendArgs& args) {
  const int32_t row = args.num_rows - 1;
  switch (DenseDim(args.key_rows, args)) {
    case 64:
      return kScoreRows<DenseRows<64>>[row](args);
    case 128:
      return kScoreRows<DenseRows<128>>[row](args);
    default:
      return kScoreRows<ListedRows>[row](args);
  }
}

void AccumulateFewBf16(const AttendArgs& args) {
  const int32_t row = args.num_rows - 1;
  switch (DenseDim(args.value_rows, args)) {
    case 64:
      return kAccumulateRows<DenseRows<64>>[row](args);
    case 128:
      return kAccumulateRows<DenseRows<128>>[row](args);
    default:
      return kAccumulateRows<ListedRows>[row](args);
  }
}

}  // namespace ringserve

HWY_POP_ATTRIBUTES

#endif
