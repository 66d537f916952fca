// Attention with float32 products for any vector length (Highway). Layouts:
//   keys    [head_dim][64 keys]   a transposed group: a lane is a key, no horizontal sums
//   values  [64 keys][padded head_dim]
// A score is one chain of products along head_dim in ascending order, an output one chain along the
// keys, for any number of rows.
#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/attention_kernel.h"

// Register blocks are arrays of vectors, which types of unknown size cannot form.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention_kernel_f32.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = HWY_CAPPED(float, 16);
using Ints = hn::RebindToSigned<Floats>;
using Vector = hn::Vec<Floats>;

// Rows x vectors that accumulate side by side: what the register file holds beside the operands.
constexpr int32_t kVectors = 4;
#if HWY_ARCH_ARM_A64 || (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3)
constexpr int32_t kRows = 6;
#else
constexpr int32_t kRows = 3;
#endif

void LoadRow(const std::byte* row, DType dtype, int32_t head_dim, float* out) {
  if (row == nullptr) {
    std::fill_n(out, head_dim, 0.0F);
  } else if (dtype == DType::kF32) {
    std::memcpy(out, row, sizeof(float) * static_cast<size_t>(head_dim));
  } else {
    const hn::CappedTag<float, 4> d4;
    const hn::RebindToUnsigned<decltype(d4)> bits;
    const hn::Rebind<uint16_t, decltype(d4)> halves;
    const auto* from = reinterpret_cast<const uint16_t*>(row);
    for (int32_t i = 0; i < head_dim; i += static_cast<int32_t>(hn::Lanes(d4))) {
      const auto wide = hn::ShiftLeft<16>(hn::PromoteTo(bits, hn::LoadU(halves, from + i)));
      hn::StoreU(hn::BitCast(d4, wide), d4, out + i);
    }
  }
}

void PackKeys(const GroupRows& rows, DType dtype, int32_t head_dim, void* packed) {
  auto* out = static_cast<float*>(packed);
  alignas(64) float row[4][256];
  for (int32_t key = 0; key < kGroupKeys; key += 4) {
    for (int32_t k = 0; k < 4; ++k) {
      LoadRow(rows[key + k], dtype, head_dim, row[k]);
    }
    const hn::CappedTag<float, 4> d4;
    alignas(64) float quads[256 * 4];
    for (int32_t i = 0; i < head_dim; i += static_cast<int32_t>(hn::Lanes(d4))) {
      hn::StoreInterleaved4(hn::Load(d4, row[0] + i),
                            hn::Load(d4, row[1] + i),
                            hn::Load(d4, row[2] + i),
                            hn::Load(d4, row[3] + i),
                            d4,
                            quads + 4 * i);
    }
    for (int32_t i = 0; i < head_dim; ++i) {
      std::memcpy(out + int64_t{i} * kGroupKeys + key, quads + 4 * i, 4 * sizeof(float));
    }
  }
}

void PackValues(const GroupRows& rows, DType dtype, int32_t head_dim, void* packed) {
  const int32_t padded = RoundUp(head_dim, kDimUnit);
  for (int32_t key = 0; key < kGroupKeys; ++key) {
    float* out = static_cast<float*>(packed) + int64_t{key} * padded;
    LoadRow(rows[key], dtype, head_dim, out);
    std::fill_n(out + head_dim, padded - head_dim, 0.0F);
  }
}

// scores[r][key] = q of row r . key, for kVectors vectors of keys.
template <int R>
void Scores(const float* q, const float* keys, int32_t head_dim, float* scores) {
  const Floats d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  Vector sum[R][kVectors];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = hn::Zero(d);
    }
  }
  for (int32_t i = 0; i < head_dim; ++i) {
    Vector key[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      key[v] = hn::Load(d, keys + int64_t{i} * kGroupKeys + v * lanes);
    }
    for (int r = 0; r < R; ++r) {
      const Vector element = hn::Set(d, q[int64_t{r} * head_dim + i]);
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = hn::MulAdd(key[v], element, sum[r][v]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      hn::Store(sum[r][v], d, scores + r * kGroupKeys + v * lanes);
    }
  }
}

// 2^x for x <= 1; 0 below the normal range; NaN stays NaN.
Vector Exp2(Vector x) {
  const Floats d;
  const Ints di;
  const Vector low = hn::Set(d, -126.0F);
  const auto below = hn::Lt(x, low);
  const Vector bounded = hn::IfThenElse(below, low, x);
  const Vector whole = hn::Round(bounded);
  const Vector part = hn::Sub(bounded, whole);
  Vector poly = hn::Set(d, kExp2Poly[5]);
  for (int i = 4; i >= 0; --i) {
    poly = hn::MulAdd(poly, part, hn::Set(d, kExp2Poly[i]));
  }
  poly = hn::MulAdd(poly, part, hn::Set(d, 1.0F));
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, whole), hn::Set(di, 127)));
  // For NaN the power is arbitrary but the polynomial is NaN.
  return hn::IfThenZeroElse(below, hn::Mul(poly, hn::BitCast(d, exponent)));
}

// Softmax of one row over the group: scores become probabilities; returns what the row's
// accumulators are to be multiplied with.
float Softmax(float* scores, uint64_t visible, float scale, float& max, float* sum) {
  const Floats d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  const Vector nothing = hn::Set(d, -std::numeric_limits<float>::infinity());
  if (visible != ~uint64_t{0}) {
    for (int32_t key = 0; key < kGroupKeys; ++key) {
      if ((visible >> key & 1) == 0) {
        scores[key] = -std::numeric_limits<float>::infinity();
      }
    }
  }
  Vector largest = nothing;
  for (int32_t key = 0; key < kGroupKeys; key += lanes) {
    largest = hn::Max(largest, hn::Load(d, scores + key));
  }
  const float new_max = std::max(max, hn::GetLane(hn::MaxOfLanes(d, largest)) * scale);
  const Vector correction = Exp2(hn::Set(d, max - new_max));
  max = new_max;
  for (int32_t part = 0; part < kSumLanes; part += lanes) {
    Vector total = hn::Mul(hn::Load(d, sum + part), correction);
    for (int32_t key = part; key < kGroupKeys; key += kSumLanes) {
      const Vector x = hn::Load(d, scores + key);
      const Vector p = Exp2(hn::MulSub(x, hn::Set(d, scale), hn::Set(d, new_max)));
      hn::Store(p, d, scores + key);
      total = hn::Add(total, p);
    }
    hn::Store(total, d, sum + part);
  }
  return hn::GetLane(correction);
}

// acc[r] = acc[r] * correction[r] + p[r] . values, for V vectors of dimensions.
template <int R, int V>
void Accumulate(
    const float* p, const float* values, int32_t padded, const float* correction, float* acc) {
  const Floats d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  Vector sum[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      // Adding zero makes a zero positive, so that products with nothing change no bit later.
      sum[r][v] = hn::MulAdd(hn::Load(d, acc + int64_t{r} * padded + v * lanes),
                             hn::Set(d, correction[r]),
                             hn::Zero(d));
    }
  }
  for (int32_t key = 0; key < kGroupKeys; ++key) {
    Vector value[V];
    for (int v = 0; v < V; ++v) {
      value[v] = hn::Load(d, values + int64_t{key} * padded + v * lanes);
    }
    for (int r = 0; r < R; ++r) {
      const Vector weight = hn::Set(d, p[r * kGroupKeys + key]);
      for (int v = 0; v < V; ++v) {
        sum[r][v] = hn::MulAdd(value[v], weight, sum[r][v]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      hn::Store(sum[r][v], d, acc + int64_t{r} * padded + v * lanes);
    }
  }
}

template <int R>
void AttendRows(const AttendArgs& args, int32_t row) {
  constexpr uint64_t kAll = ~uint64_t{0};
  const Floats d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  const int32_t padded = RoundUp(args.head_dim, kDimUnit);
  alignas(64) float scores[R * kGroupKeys];
  float correction[R];
  uint64_t any = 0;
  for (int r = 0; r < R; ++r) {
    any |= args.visible == nullptr ? kAll : args.visible[row + r];
  }
  if (any == 0) {
    return;
  }
  for (int32_t key = 0; key < kGroupKeys; key += kVectors * lanes) {
    Scores<R>(static_cast<const float*>(args.q) + int64_t{row} * args.head_dim,
              static_cast<const float*>(args.keys) + key,
              args.head_dim,
              scores + key);
  }
  for (int r = 0; r < R; ++r) {
    const uint64_t visible = args.visible == nullptr ? kAll : args.visible[row + r];
    if (visible == 0) {
      correction[r] = 1;
      std::fill_n(scores + r * kGroupKeys, kGroupKeys, 0.0F);
      continue;
    }
    correction[r] = Softmax(scores + r * kGroupKeys,
                            visible,
                            args.scale,
                            args.max[row + r],
                            args.sum + int64_t{row + r} * kSumLanes);
  }
  const auto* values = static_cast<const float*>(args.values);
  float* acc = args.acc + int64_t{row} * padded;
  int32_t dim = 0;
  for (; dim + kVectors * lanes <= padded; dim += kVectors * lanes) {
    Accumulate<R, kVectors>(scores, values + dim, padded, correction, acc + dim);
  }
  for (; dim < padded; dim += lanes) {
    Accumulate<R, 1>(scores, values + dim, padded, correction, acc + dim);
  }
}

void Attend(const AttendArgs& args) {
  int32_t row = 0;
  for (; row + kRows <= args.num_rows; row += kRows) {
    AttendRows<kRows>(args, row);
  }
  for (; row + 2 <= args.num_rows; row += 2) {
    AttendRows<2>(args, row);
  }
  if (row < args.num_rows) {
    AttendRows<1>(args, row);
  }
}

void Exp2Array(const float* x, float* out, int64_t count) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < count; i += lanes) {
    alignas(64) float part[16] = {};
    const int64_t rest = std::min(lanes, count - i);
    std::copy_n(x + i, rest, part);
    hn::Store(Exp2(hn::Load(d, part)), d, part);
    std::copy_n(part, rest, out + i);
  }
}

const AttentionKernel* Kernel() {
  static constexpr AttentionKernel kKernel = {.q_dtype = DType::kF32,
                                              .pack_keys = PackKeys,
                                              .pack_values = PackValues,
                                              .attend = Attend,
                                              .exp2 = Exp2Array};
  return &kKernel;
}

}  // namespace HWY_NAMESPACE
}  // namespace ringserve

HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringserve {

HWY_EXPORT(Kernel);

const AttentionKernel& AttentionKernelF32() {
  static const AttentionKernel& kernel = *HWY_DYNAMIC_DISPATCH(Kernel)();
  return kernel;
}

}  // namespace ringserve
#endif
