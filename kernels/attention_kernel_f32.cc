// Attention with float32 products for any vector length (Highway). Layouts:
//   keys    [head_dim][64 keys]   a transposed group: a lane is a key, no horizontal sums
//   values  [64 keys][padded head_dim]
// A score is one chain of products along head_dim in ascending order, an output one chain along the
// keys, for any number of rows.
#include <algorithm>
#include <limits>

#include "kernels/attention_kernel.h"
#include "kernels/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention_kernel_f32.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/attention_pack_f32_inl.h"

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Ints = hn::RebindToSigned<Floats>;

// Loops over accumulators are unrolled by order: gcc leaves those with many to a later pass, has
// them in memory until then, and for Arm writes them there for each key.
//
// Rows that share a loaded key or value, and vectors of it: as many accumulators as the register
// file (32 or 16) holds beside the operands.
constexpr int32_t kRows = 6;
#if HWY_ARCH_ARM_A64 || (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3)
constexpr int32_t kVectors = 4;
#else
constexpr int32_t kVectors = 2;
#endif
constexpr int64_t kTileLanes = int64_t{kVectors} * kLanes;

// scores[r][key] = q of row r . key, for kVectors vectors of keys.
template <int R>
void Scores(const float* q, const float* keys, int32_t head_dim, float* scores) {
  const Floats d;
  Vector sum[R][kVectors];
  HWY_UNROLL(8)
  for (int64_t r = 0; r < R; ++r) {
    HWY_UNROLL(8)
    for (int64_t v = 0; v < kVectors; ++v) {
      sum[r][v] = hn::Zero(d);
    }
  }
  for (int64_t i = 0; i < head_dim; ++i) {
    Vector key[kVectors];
    HWY_UNROLL(8)
    for (int64_t v = 0; v < kVectors; ++v) {
      key[v] = hn::Load(d, keys + int64_t{i} * kGroupKeys + v * kLanes);
    }
    HWY_UNROLL(8)
    for (int64_t r = 0; r < R; ++r) {
      const Vector element = hn::Set(d, q[int64_t{r} * head_dim + i]);
      HWY_UNROLL(8)
      for (int64_t v = 0; v < kVectors; ++v) {
        sum[r][v] = hn::MulAdd(key[v], element, sum[r][v]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int64_t r = 0; r < R; ++r) {
    HWY_UNROLL(8)
    for (int64_t v = 0; v < kVectors; ++v) {
      hn::Store(sum[r][v], d, scores + r * kGroupKeys + v * kLanes);
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
  const Vector nothing = hn::Set(d, -std::numeric_limits<float>::infinity());
  if (visible != ~uint64_t{0}) {
    for (int64_t key = 0; key < kGroupKeys; ++key) {
      if ((visible >> key & 1) == 0) {
        scores[key] = -std::numeric_limits<float>::infinity();
      }
    }
  }
  Vector largest = nothing;
  for (int64_t key = 0; key < kGroupKeys; key += kLanes) {
    largest = hn::Max(largest, hn::Load(d, scores + key));
  }
  const float new_max = std::max(max, hn::GetLane(hn::MaxOfLanes(d, largest)) * scale);
  const Vector correction = Exp2(hn::Set(d, max - new_max));
  max = new_max;
  for (int64_t part = 0; part < kSumLanes; part += kLanes) {
    Vector total = hn::Mul(hn::Load(d, sum + part), correction);
    for (int64_t key = part; key < kGroupKeys; key += kSumLanes) {
      const Vector x = hn::Load(d, scores + key);
      const Vector p = Exp2(hn::MulSub(x, hn::Set(d, scale), hn::Set(d, new_max)));
      hn::Store(p, d, scores + key);
      total = hn::Add(total, p);
    }
    hn::Store(total, d, sum + part);
  }
  return hn::GetLane(correction);
}

// acc[r] = acc[r] * correction[r] + p[r] . values, for V vectors of dimensions; load(key, value)
// gives a key's.
template <int R, int V, class Load>
HWY_INLINE void Accumulate(
    const float* p, int32_t padded, const float* correction, float* acc, const Load& load) {
  const Floats d;
  Vector sum[R][V];
  HWY_UNROLL(8)
  for (int64_t r = 0; r < R; ++r) {
    HWY_UNROLL(8)
    for (int64_t v = 0; v < V; ++v) {
      // Adding zero makes a zero positive, so that products with nothing change no bit later.
      sum[r][v] = hn::MulAdd(hn::Load(d, acc + int64_t{r} * padded + v * kLanes),
                             hn::Set(d, correction[r]),
                             hn::Zero(d));
    }
  }
  for (int64_t key = 0; key < kGroupKeys; ++key) {
    Vector value[V];
    load(key, value);
    HWY_UNROLL(8)
    for (int64_t r = 0; r < R; ++r) {
      const Vector weight = hn::Set(d, p[r * kGroupKeys + key]);
      HWY_UNROLL(8)
      for (int64_t v = 0; v < V; ++v) {
        sum[r][v] = hn::MulAdd(value[v], weight, sum[r][v]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int64_t r = 0; r < R; ++r) {
    HWY_UNROLL(8)
    for (int64_t v = 0; v < V; ++v) {
      hn::Store(sum[r][v], d, acc + int64_t{r} * padded + v * kLanes);
    }
  }
}

template <int R, int V>
void AccumulatePacked(
    const AttendArgs& args, int32_t row, int64_t dim, const float* p, const float* correction) {
  const int32_t padded = RoundUp(args.head_dim, kDimUnit);
  const float* values = static_cast<const float*>(args.packed_values) + dim;
  Accumulate<R, V>(p,
                   padded,
                   correction,
                   args.acc + int64_t{row} * padded + dim,
                   [&](int64_t key, Vector(&value)[V]) HWY_ATTR {
                     HWY_UNROLL(8)
                     for (int64_t v = 0; v < V; ++v) {
                       value[v] = hn::Load(Floats(), values + key * padded + v * kLanes);
                     }
                   });
}

// From the values as they lie.
template <int R, int V>
void AccumulateDims(const AttendArgs& args, int64_t dim) {
  const int32_t padded = RoundUp(args.head_dim, kDimUnit);
  const auto run = [&](DType dtype) HWY_ATTR {
    const auto load = [&](int64_t key, Vector(&value)[V]) HWY_ATTR {
      hwy::Prefetch(args.next[key] + dim * DTypeBytes(dtype));
      LoadValues<V>(args.value_rows[key], dtype, dim, args.head_dim, value);
    };
    Accumulate<R, V>(args.probabilities, padded, args.correction, args.acc + dim, load);
  };
  if (args.dtype == DType::kF32) {
    run(DType::kF32);
  } else {
    run(DType::kBf16);
  }
}

// Scores and probabilities of R rows from `row` on.
template <int R>
void Probabilities(const AttendArgs& args, int32_t row, float* scores, float* correction) {
  for (int64_t key = 0; key < kGroupKeys; key += kTileLanes) {
    Scores<R>(static_cast<const float*>(args.q) + int64_t{row} * args.head_dim,
              static_cast<const float*>(args.packed_keys) + key,
              args.head_dim,
              scores + key);
  }
  for (int64_t r = 0; r < R; ++r) {
    const uint64_t visible = args.visible == nullptr ? ~uint64_t{0} : args.visible[row + r];
    if (visible == 0) {
      correction[r] = 1;
      std::fill_n(scores + r * kGroupKeys, kGroupKeys, 0.0F);
      continue;
    }
    if (args.rule != nullptr) {
      AdjustScores(
          *args.rule, args.rule_row + row + static_cast<int32_t>(r), scores + r * kGroupKeys);
    }
    correction[r] = Softmax(scores + r * kGroupKeys,
                            visible,
                            args.scale,
                            args.max[row + r],
                            args.sum + int64_t{row + r} * kSumLanes);
  }
}

template <int R>
void AttendRows(const AttendArgs& args, int32_t row) {
  alignas(64) float scores[R * kGroupKeys];
  float correction[R];
  if (args.visible != nullptr &&
      std::all_of(args.visible + row, args.visible + row + R, [](uint64_t v) { return v == 0; })) {
    return;
  }
  Probabilities<R>(args, row, scores, correction);
  const int32_t padded = RoundUp(args.head_dim, kDimUnit);
  int64_t dim = 0;
  for (; dim + kTileLanes <= padded; dim += kTileLanes) {
    AccumulatePacked<R, kVectors>(args, row, dim, scores, correction);
  }
  for (; dim < padded; dim += kLanes) {
    AccumulatePacked<R, 1>(args, row, dim, scores, correction);
  }
}

template <int R>
void ScoreFewRows(const AttendArgs& args) {
  PackAndFetch(
      args.key_rows, args.next, args.dtype, args.head_dim, static_cast<float*>(args.packed_keys));
  Probabilities<R>(args, 0, args.probabilities, args.correction);
}

template <int R>
void AccumulateFewRows(const AttendArgs& args) {
  int64_t dim = 0;
  for (; dim + kTileLanes <= args.head_dim; dim += kTileLanes) {
    AccumulateDims<R, kVectors>(args, dim);
  }
  for (; dim < args.head_dim; dim += kLanes) {
    AccumulateDims<R, 1>(args, dim);
  }
}

using RowsFunction = void (*)(const AttendArgs& args, int32_t row);
constexpr RowsFunction kAttendRows[kRows] = {
    AttendRows<1>, AttendRows<2>, AttendRows<3>, AttendRows<4>, AttendRows<5>, AttendRows<6>};
using FewFunction = void (*)(const AttendArgs& args);
constexpr FewFunction kScoreFewRows[kRows] = {ScoreFewRows<1>,
                                              ScoreFewRows<2>,
                                              ScoreFewRows<3>,
                                              ScoreFewRows<4>,
                                              ScoreFewRows<5>,
                                              ScoreFewRows<6>};
constexpr FewFunction kAccumulateFewRows[kRows] = {AccumulateFewRows<1>,
                                                   AccumulateFewRows<2>,
                                                   AccumulateFewRows<3>,
                                                   AccumulateFewRows<4>,
                                                   AccumulateFewRows<5>,
                                                   AccumulateFewRows<6>};

void Attend(const AttendArgs& args) {
  const int32_t num_blocks = CeilDiv(args.num_rows, kRows);
  int32_t row = 0;
  for (int32_t block = 0; block < num_blocks; ++block) {
    const int32_t rows = CeilDiv(args.num_rows - row, num_blocks - block);
    kAttendRows[rows - 1](args, row);
    row += rows;
  }
}

void ScoreFew(const AttendArgs& args) {
  kScoreFewRows[args.num_rows - 1](args);
}

void AccumulateFew(const AttendArgs& args) {
  kAccumulateFewRows[args.num_rows - 1](args);
}

void NaturalOrder(const float* acc, int32_t head_dim, float* out) {
  std::copy_n(acc, head_dim, out);
}

void Exp2Array(const float* x, float* out, int64_t count) {
  const Floats d;
  for (int64_t i = 0; i < count; i += kLanes) {
    alignas(64) float part[16] = {};
    const int64_t rest = std::min<int64_t>(kLanes, count - i);
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
                                              .score_few = ScoreFew,
                                              .accumulate_few = AccumulateFew,
                                              .max_few = kRows,
                                              .natural_order = NaturalOrder,
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
