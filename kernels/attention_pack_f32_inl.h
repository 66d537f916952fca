// Keys and values of a group on their way into the layouts of attention_kernel_f32.cc, which alone
// includes this, once for each instruction set.
#if defined(RINGSERVE_KERNELS_ATTENTION_PACK_F32_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSERVE_KERNELS_ATTENTION_PACK_F32_INL_H_
#undef RINGSERVE_KERNELS_ATTENTION_PACK_F32_INL_H_
#else
#define RINGSERVE_KERNELS_ATTENTION_PACK_F32_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/attention_kernel.h"

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = HWY_CAPPED(float, 16);
using Words = hn::RebindToUnsigned<Floats>;
using Vector = hn::Vec<Floats>;

constexpr auto kLanes = static_cast<int32_t>(hn::MaxLanes(Floats()));

#if HWY_TARGET == HWY_SCALAR

inline void PackAndFetch(
    const PlaneRows& rows, const PlaneRows& /*next*/, DType dtype, int32_t head_dim, float* out) {
  for (int64_t key = 0; key < kGroupKeys; ++key) {
    for (int64_t dim = 0; dim < head_dim; ++dim) {
      out[int64_t{dim} * kGroupKeys + key] =
          dtype == DType::kF32 ? reinterpret_cast<const float*>(rows[key])[dim]
                               : ToFloat(reinterpret_cast<const Bf16*>(rows[key])[dim]);
    }
  }
}

#else

// 32-bit words [word, word + 4) of every fourth row from `key` on, as many rows as fill a vector.
inline hn::Vec<Words> LoadWords(const PlaneRows& rows, int64_t key, int32_t word) {
  const Words d;
  const auto at = [&](int32_t row) {
    return reinterpret_cast<const uint32_t*>(rows[key + int64_t{4} * row]) + word;
  };
  if constexpr (kLanes == 4) {
    return hn::LoadU(d, at(0));
  } else {
    const hn::Half<Words> d2;
    if constexpr (kLanes == 8) {
      return hn::Combine(d, hn::LoadU(d2, at(1)), hn::LoadU(d2, at(0)));
    } else {
      const hn::Half<decltype(d2)> d4;
      return hn::Combine(d,
                         hn::Combine(d2, hn::LoadU(d4, at(3)), hn::LoadU(d4, at(2))),
                         hn::Combine(d2, hn::LoadU(d4, at(1)), hn::LoadU(d4, at(0))));
    }
  }
}

// One word of kLanes keys: one dimension of float32, two of bf16.
inline void StoreWords(hn::Vec<Words> words, DType dtype, int32_t word, float* out) {
  const Words d;
  auto* to = reinterpret_cast<uint32_t*>(out);
  if (dtype == DType::kF32) {
    hn::Store(words, d, to + int64_t{word} * kGroupKeys);
  } else {
    hn::Store(hn::ShiftLeft<16>(words), d, to + 2 * int64_t{word} * kGroupKeys);
    hn::Store(
        hn::And(words, hn::Set(d, 0xffff0000U)), d, to + (2 * int64_t{word} + 1) * kGroupKeys);
  }
}

// Transposes; fetches `next` meanwhile.
inline void PackAndFetch(
    const PlaneRows& rows, const PlaneRows& next, DType dtype, int32_t head_dim, float* out) {
  const Words d;
  const hn::RepartitionToWide<Words> d64;
  const int32_t num_words = head_dim * DTypeBytes(dtype) / 4;  // a multiple of 4
  for (int64_t key = 0; key < kGroupKeys; key += kLanes) {
    for (int32_t word = 0; word < num_words; word += 4) {
      if (word % 16 == 0) {
        for (int64_t i = 0; i < kLanes; ++i) {
          hwy::Prefetch(next[key + i] + 4 * int64_t{word});
        }
      }
      const auto row0 = LoadWords(rows, key, word);
      const auto row1 = LoadWords(rows, key + 1, word);
      const auto row2 = LoadWords(rows, key + 2, word);
      const auto row3 = LoadWords(rows, key + 3, word);
      const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, row0, row1));
      const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, row0, row1));
      const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, row2, row3));
      const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, row2, row3));
      StoreWords(hn::BitCast(d, hn::InterleaveLower(d64, low01, low23)), dtype, word, out + key);
      StoreWords(
          hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23)), dtype, word + 1, out + key);
      StoreWords(
          hn::BitCast(d, hn::InterleaveLower(d64, high01, high23)), dtype, word + 2, out + key);
      StoreWords(
          hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23)), dtype, word + 3, out + key);
    }
  }
}

#endif

inline void PackKeys(const PlaneRows& rows, DType dtype, int32_t head_dim, void* packed) {
  PackAndFetch(rows, rows, dtype, head_dim, static_cast<float*>(packed));
}

template <class D>
hn::Vec<D> LoadAs(D d, const std::byte* row, DType dtype, int64_t dim) {
  if (dtype == DType::kF32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(row) + dim);
  }
  const hn::RebindToUnsigned<D> bits;
  const hn::Rebind<uint16_t, D> halves;
  const auto half = hn::LoadU(halves, reinterpret_cast<const uint16_t*>(row) + dim);
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(bits, half)));
}

// Dimensions [dim, dim + kLanes) of a row, zeros from head_dim on: a multiple of 8, which only a
// vector of 16 can pass.
HWY_INLINE Vector LoadValues(const std::byte* row,
                             DType dtype,
                             int64_t dim,
                             [[maybe_unused]] int32_t head_dim) {
  const Floats d;
#if HWY_TARGET != HWY_SCALAR
  if (kLanes > 8 && dim + kLanes > head_dim) {
    return hn::ZeroExtendVector(d, LoadAs(hn::Half<Floats>(), row, dtype, dim));
  }
#endif
  return LoadAs(d, row, dtype, dim);
}

// The same for V vectors. Between zeros a bf16 is a float: one instruction where a load has two
// vectors of them.
template <int V>
HWY_INLINE void LoadValues(
    const std::byte* row, DType dtype, int64_t dim, int32_t head_dim, Vector (&value)[V]) {
#if HWY_TARGET != HWY_SCALAR
  if (kLanes == 4 && V % 2 == 0 && dtype == DType::kBf16) {
    const Floats d;
    const hn::Repartition<uint16_t, Floats> halves;
    HWY_UNROLL(8)
    for (int64_t v = 0; v + 1 < V; v += 2) {
      const auto bits =
          hn::LoadU(halves, reinterpret_cast<const uint16_t*>(row) + dim + v * kLanes);
      value[v] = hn::BitCast(d, hn::InterleaveLower(halves, hn::Zero(halves), bits));
      value[v + 1] = hn::BitCast(d, hn::InterleaveUpper(halves, hn::Zero(halves), bits));
    }
    return;
  }
#endif
  HWY_UNROLL(8)
  for (int64_t v = 0; v < V; ++v) {
    value[v] = LoadValues(row, dtype, dim + v * kLanes, head_dim);
  }
}

inline void PackValues(const PlaneRows& rows, DType dtype, int32_t head_dim, void* packed) {
  const int32_t padded = RoundUp(head_dim, kDimUnit);
  auto* out = static_cast<float*>(packed);
  for (int32_t lane = 0; lane < kGroupKeys; ++lane) {
    const std::byte* row = rows[lane];
    for (int64_t dim = 0; dim < head_dim; dim += kLanes) {
      hn::Store(LoadValues(row, dtype, dim, head_dim), Floats(), out + dim);
    }
    std::fill(out + RoundUp(head_dim, kLanes), out + padded, 0.0F);
    out += padded;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace ringserve

HWY_AFTER_NAMESPACE();

#endif
