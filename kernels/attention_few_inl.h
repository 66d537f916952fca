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

// How planes are read and fetched. Few rows pass a plane about as fast as memory delivers it, and a
// machine whose memory others use answers late: 200 ns and more, at 15 GB/s a core 50 lines on
// their way. The miss buffers of the first level hold half of that, and the prefetchers that go
// beyond them follow loads of line after line, which reading columns of rows is not. What is read a
// plane from now is therefore asked for in the second level, in steps as fine as the work allows.
// A first level that holds more (FetchesIntoFirstLevel) is asked alone: half a plane ahead, and
// small planes a whole plane ahead too.

// Rows wherever they lie; beside them what is read after them.
class ListedRows {
 public:
  ListedRows(const PlaneRows& plane, const PlaneRows& next, int32_t head_dim)
      : plane_(plane), next_(next), head_dim_(head_dim) {}

  HWY_INLINE const std::byte* operator[](int64_t row) const { return plane_[row]; }

  HWY_INLINE ListedRows From(int64_t row) const { return {plane_.From(row), next_, head_dim_}; }

  int32_t head_dim() const { return head_dim_; }

  HWY_INLINE void FetchBeyond() const {}

  // Fetches half of what is read next, kLines lines at each step.
  template <int32_t kLines, bool kNear>
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
template <int32_t kHeadDim, bool kFirstLevel = false>
class DenseRows {
 public:
  DenseRows(const PlaneRows& plane, const PlaneRows& next, int32_t /*head_dim*/)
      : first_(plane.first), next_(next.empty() ? first_ : next.first) {}

  HWY_INLINE const std::byte* operator[](int64_t row) const { return first_ + row * kRowBytes; }

  HWY_INLINE DenseRows From(int64_t row) const { return DenseRows((*this)[row], next_); }

  static constexpr int32_t head_dim() { return kHeadDim; }

  // Between two planes, where work reads none: asks for the first lines of the one after the next,
  // which lies beside it in a block.
  HWY_INLINE void FetchBeyond() const { FetchFirst<16>(next_ + kPlaneBytes); }

  // Asks for half of the next plane, kLines lines at each step, and for what is read soon in the
  // first level: through the second only if kNear, as what reads whole rows finds them in time
  // without. Where the next plane lies elsewhere, as it does after the last one of a block, its
  // first lines come early: nothing in the machine expects them.
  template <int32_t kLines, bool kNear>
  class Fetcher {
   public:
    HWY_INLINE Fetcher(const DenseRows& rows, int64_t half)
        : far_(rows.next_ + half * kPlaneBytes / 2),
          near_(kFirstLevel ? (half == 0 ? rows[kHalf] : rows.next_)
                            : rows[half * kHalf] + kNearBytes) {
      if (half == 0 && rows.next_ != rows[kGroupKeys]) {
        FetchFirst<64>(rows.next_);
      }
    }

    HWY_INLINE void Step() {
      HWY_UNROLL(4)
      for (int32_t line = 0; line < kLines; ++line) {
        if constexpr (!kFirstLevel || kPlaneBytes <= kSmallPlaneBytes) {
          FetchLine(far_ + kLineBytes * line);
        }
        if constexpr (kFirstLevel || kNear) {
          _mm_prefetch(near_ + kLineBytes * line, _MM_HINT_T0);
        }
      }
      far_ += kLineBytes * kLines;
      near_ += kLineBytes * kLines;
    }

   private:
    const std::byte* far_;
    const std::byte* near_;
  };

 private:
  static constexpr int64_t kLineBytes = 64;
  static constexpr int64_t kRowBytes = int64_t{2} * kHeadDim;
  static constexpr int64_t kPlaneBytes = kRowBytes * kGroupKeys;
  static constexpr int64_t kNearBytes = kPlaneBytes / 2 - 2048;
  static constexpr int64_t kSmallPlaneBytes = 8192;

  static HWY_INLINE void FetchLine(const std::byte* line) {
    _mm_prefetch(line, kFirstLevel ? _MM_HINT_T0 : _MM_HINT_T1);
  }

  template <int32_t kLines>
  static HWY_INLINE void FetchFirst(const std::byte* lines) {
    for (int32_t line = 0; line < kLines; ++line) {
      FetchLine(lines + kLineBytes * line);
    }
  }

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
