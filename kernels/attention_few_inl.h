// Attention of few rows on x86-64: how it reads and fetches keys and values. Included once by each
// kernel.
#pragma once

#include <cstdint>
#include <hwy/base.h>
#include <immintrin.h>

#include "kernels/attention_bf16_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

inline constexpr int32_t kHalf = kGroupKeys / 2;  // keys
inline constexpr int32_t kHalfPairs = kHalf / 2;

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

  const std::byte* next() const { return next_; }

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
          _mm_prefetch(rows.next_ + int64_t{64} * line, _MM_HINT_T0);
        }
      }
    }

    HWY_INLINE void Step() {
      HWY_UNROLL(4)
      for (int32_t line = 0; line < kLines; ++line) {
        if constexpr (kIsSmall) {
          _mm_prefetch(far_ + int64_t{64} * line, _MM_HINT_T0);
        }
        _mm_prefetch(near_ + int64_t{64} * line, _MM_HINT_T0);
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
  static constexpr int64_t kRowBytes = int64_t{2} * kHeadDim;

  DenseRows(const std::byte* first, const std::byte* next) : first_(first), next_(next) {}

  const std::byte* first_;
  const std::byte* next_;
};

// The head dimension if both planes are dense, else 0.
inline int32_t DenseDim(const PlaneRows& rows, const AttendArgs& args) {
  return rows.dense() && args.next.dense() ? args.head_dim : 0;
}

}  // namespace
}  // namespace ringserve

HWY_POP_ATTRIBUTES
