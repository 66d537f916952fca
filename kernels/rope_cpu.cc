#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/rope.h"
#include "kernels/simd_targets.h"
#include "kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef RINGSERVE_KERNELS_ROPE_CPU_
#define RINGSERVE_KERNELS_ROPE_CPU_

namespace ringserve {

// Of one instruction set.
struct RopeFunctions {
  void (*rotate)(const float* head, const float* angles, int32_t head_dim, DType dtype, void* to) =
      nullptr;
  void (*copy)(const float* head, int32_t head_dim, DType dtype, void* to) = nullptr;
};

}  // namespace ringserve
#endif

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Rounds to nearest even; a NaN stays a quiet NaN: ToBf16 of types.h.
template <class D>
void StoreAs(hn::Vec<D> value, D d, DType dtype, void* to, int64_t index) {
  if (dtype == DType::kF32) {
    hn::StoreU(value, d, static_cast<float*>(to) + index);
    return;
  }
  const hn::RebindToSigned<D> di;
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint16_t, D> d16;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(value));
  const auto chosen = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, chosen)), d16, static_cast<uint16_t*>(to) + index);
}

// Rotates elements [i, i + lanes) of both halves of a head.
template <class D>
void RotateLanes(
    D d, const float* head, const float* angles, int64_t half, int64_t i, DType dtype, void* to) {
  hn::Vec<D> cosine;
  hn::Vec<D> sine;
  hn::LoadInterleaved2(d, angles + 2 * i, cosine, sine);
  const auto low = hn::LoadU(d, head + i);
  const auto high = hn::LoadU(d, head + i + half);
  StoreAs(hn::MulSub(low, cosine, hn::Mul(high, sine)), d, dtype, to, i);
  StoreAs(hn::MulAdd(high, cosine, hn::Mul(low, sine)), d, dtype, to, i + half);
}

void Rotate(const float* head, const float* angles, int32_t head_dim, DType dtype, void* to) {
  const HWY_CAPPED(float, 16) wide;
  const hn::CappedTag<float, 4> narrow;  // head_dim / 2 is a multiple of 4
  const int64_t half = head_dim / 2;
  const auto wide_lanes = static_cast<int64_t>(hn::Lanes(wide));
  const auto narrow_lanes = static_cast<int64_t>(hn::Lanes(narrow));
  int64_t i = 0;
  for (; i + wide_lanes <= half; i += wide_lanes) {
    RotateLanes(wide, head, angles, half, i, dtype, to);
  }
  for (; i < half; i += narrow_lanes) {
    RotateLanes(narrow, head, angles, half, i, dtype, to);
  }
}

void Copy(const float* head, int32_t head_dim, DType dtype, void* to) {
  const hn::CappedTag<float, 8> d;  // head_dim is a multiple of 8
  for (int32_t i = 0; i < head_dim; i += static_cast<int32_t>(hn::Lanes(d))) {
    StoreAs(hn::LoadU(d, head + i), d, dtype, to, i);
  }
}

RopeFunctions GetRopeFunctions() {
  return {.rotate = Rotate, .copy = Copy};
}

}  // namespace HWY_NAMESPACE
}  // namespace ringserve

HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringserve {
namespace {

HWY_EXPORT(GetRopeFunctions);

const RopeFunctions& Best() {
  static const RopeFunctions functions = HWY_DYNAMIC_DISPATCH(GetRopeFunctions)();
  return functions;
}

constexpr int32_t kMaxHeadDim = 256;

// The head, or what its norm makes of it in `room`.
const float* Normed(
    const float* head, const float* weight, float eps, int32_t head_dim, float* room) {
  if (weight == nullptr) {
    return head;
  }
  double squares = 0;
  for (int32_t i = 0; i < head_dim; ++i) {
    squares += static_cast<double>(head[i]) * static_cast<double>(head[i]);
  }
  const auto scale =
      static_cast<float>(1 / std::sqrt(squares / head_dim + static_cast<double>(eps)));
  for (int32_t i = 0; i < head_dim; ++i) {
    room[i] = head[i] * scale * weight[i];
  }
  return room;
}

void AppendRow(const RopeAppendArgs& args, const RopeFunctions& best, int64_t row) {
  const KvLayout& layout = args.kv.layout;
  const int32_t head_dim = layout.head_dim;
  const int64_t row_bytes = int64_t{head_dim} * DTypeBytes(layout.dtype);
  const float* angles = args.angles + row * head_dim;
  const float* heads =
      args.qkv + row * (args.num_heads + 2 * int64_t{layout.num_kv_heads}) * head_dim;
  auto* q =
      static_cast<std::byte*>(args.q) + row * args.num_heads * head_dim * DTypeBytes(args.q_dtype);
  for (int32_t head = 0; head < args.num_heads; ++head) {
    float room[kMaxHeadDim];
    const float* query = Normed(heads, args.q_norm, args.norm_eps, head_dim, room);
    best.rotate(query, angles, head_dim, args.q_dtype, q);
    heads += head_dim;
    q += int64_t{head_dim} * DTypeBytes(args.q_dtype);
  }
  const auto write = [&](int64_t slot, bool rotated) {
    const auto block = static_cast<int32_t>(slot / layout.block_size);
    const int64_t offset = slot % layout.block_size * row_bytes;
    const float* keys = heads;
    const float* values = heads + int64_t{layout.num_kv_heads} * head_dim;
    for (int32_t head = 0; head < layout.num_kv_heads; ++head) {
      std::byte* key = args.kv.Keys(block, head) + offset;
      float room[kMaxHeadDim];
      const float* plain = Normed(keys, args.k_norm, args.norm_eps, head_dim, room);
      if (rotated) {
        best.rotate(plain, angles, head_dim, layout.dtype, key);
      } else {
        best.copy(plain, head_dim, layout.dtype, key);
      }
      best.copy(values, head_dim, layout.dtype, args.kv.Values(block, head) + offset);
      keys += head_dim;
      values += head_dim;
    }
  };
  write(args.slots[row], true);
  if (args.sink_slots != nullptr && args.sink_slots[row] >= 0) {
    write(args.sink_slots[row], false);
  }
}

}  // namespace

void RopeAppendCpu(const RopeAppendArgs& args, ThreadPool& pool) {
  const RopeFunctions& best = Best();
  pool.ParallelFor(args.num_rows, 8, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      AppendRow(args, best, row);
    }
  });
}

void RotateStoredKey(
    const std::byte* key, const float* angles, int32_t head_dim, DType dtype, std::byte* out) {
  float wide[256];
  if (dtype == DType::kF32) {
    std::memcpy(wide, key, sizeof(float) * static_cast<size_t>(head_dim));
  } else {
    for (int32_t i = 0; i < head_dim; ++i) {
      wide[i] = ToFloat(reinterpret_cast<const Bf16*>(key)[i]);
    }
  }
  Best().rotate(wide, angles, head_dim, dtype, out);
}

}  // namespace ringserve
#endif
