// The arithmetic inside an attention item: one table of functions for each instruction set and type
// of product. attention_cpu.cc feeds it groups of keys. Internal to the attention family.
//
// A group is 64 lanes; the key at position p lies in lane p % 64, whatever tile or block it comes
// from, so that the bits of a row do not depend on how keys were cut. A lane without a key, or one
// that a row does not see, adds exactly nothing to that row.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention_score.h"
#include "kernels/types.h"

namespace ringserve {

inline constexpr int32_t kGroupKeys = 64;
// Accumulators are rows of RoundUp(head_dim, kDimUnit) floats, in an order of the kernel's own.
inline constexpr int32_t kDimUnit = 32;
// A row's sum of probabilities is kept in this many parts: key lane modulo kSumLanes.
inline constexpr int32_t kSumLanes = 16;

// Where a group's keys (or values) lie. Lanes without one have a row of zeros.
using GroupRows = const std::byte* [kGroupKeys];

// The rows of a group in the plane of one KV head: dense, one after the other, or wherever the rows
// of another head lie, whose plane is at a fixed distance.
struct PlaneRows {
  const std::byte* const* rows = nullptr;  // kGroupKeys of them; null: dense
  int64_t offset = 0;                      // from them, bytes
  const std::byte* first = nullptr;        // of dense rows; null: nothing at all
  int32_t row_bytes = 0;                   // of dense rows

  bool dense() const { return rows == nullptr; }

  bool empty() const { return rows == nullptr && first == nullptr; }

  const std::byte* operator[](int64_t lane) const {
    return rows == nullptr ? first + lane * row_bytes : rows[lane] + offset;
  }

  // Of the lanes from that one on.
  PlaneRows From(int64_t lane) const {
    return rows == nullptr ? PlaneRows{.first = first + lane * row_bytes, .row_bytes = row_bytes}
                           : PlaneRows{.rows = rows + lane, .offset = offset};
  }
};

struct AttendArgs {
  const void* q = nullptr;      // [num_rows, head_dim] of AttentionKernel::q_dtype
  void* packed_keys = nullptr;  // attend reads them, score_few may use the room
  void* packed_values = nullptr;
  PlaneRows key_rows;
  PlaneRows value_rows;
  // What is read after this, to be fetched meanwhile: attend fetches both, the others `next` alone.
  PlaneRows next;
  PlaneRows next_values;
  // Bit l: the row sees lane l. Null: every row sees all 64.
  const uint64_t* visible = nullptr;
  int32_t num_rows = 0;
  int32_t head_dim = 0;
  DType dtype = DType::kF32;  // of the rows
  float scale = 0;            // scores to powers of two: the softmax scale x log2(e)
  // Null: scores are multiplied by scale alone. Otherwise row r's are what the rule makes of those
  // of its row rule_row + r, and scale is 1.
  const ScoreRule* rule = nullptr;
  int32_t rule_row = 0;
  float* max = nullptr;  // [num_rows], in powers of two
  float* sum = nullptr;  // [num_rows, kSumLanes]
  float* acc = nullptr;  // [num_rows, padded head_dim], relative to 2^max
  // From score_few to accumulate_few: [num_rows, kGroupKeys] and [num_rows], 64-byte aligned.
  float* probabilities = nullptr;
  float* correction = nullptr;  // what acc is to be multiplied with
};

struct AttentionKernel {
  DType q_dtype = DType::kF32;
  // Both fill kGroupKeys * padded head_dim * 4 bytes at most, 64-byte aligned.
  void (*pack_keys)(const PlaneRows& rows, DType dtype, int32_t head_dim, void* packed) = nullptr;
  void (*pack_values)(const PlaneRows& rows, DType dtype, int32_t head_dim, void* packed) = nullptr;
  // One step of online softmax: takes the packed group into max, sum and acc of every row. A row
  // that sees no lane keeps its state. No value that a row does not see may be NaN or infinite.
  void (*attend)(const AttendArgs& args) = nullptr;
  // The same bits from the rows as they lie, for at most max_few rows: packing costs more than so
  // few rows can share. In two parts, the first of which reads the keys and the second the values,
  // so that the keys of several heads can be read one after the other.
  void (*score_few)(const AttendArgs& args) = nullptr;
  void (*accumulate_few)(const AttendArgs& args) = nullptr;
  int32_t max_few = 0;
  // Brings a row of acc into the order of dimensions.
  void (*natural_order)(const float* acc, int32_t head_dim, float* out) = nullptr;
  // 2^x for x <= 1, as in attend; for tests.
  void (*exp2)(const float* x, float* out, int64_t count) = nullptr;
};

// Products and sums in float32, for any types; the best instruction set of this CPU.
const AttentionKernel& AttentionKernelF32();
// Products of bf16 queries, keys, probabilities and values, sums in float32; null if this CPU has
// no instructions for them.
const AttentionKernel* AttentionKernelBf16();
// The same with Intel's AMX, for head dimensions that are multiples of 32; null likewise.
const AttentionKernel* AttentionKernelAmx();

// Minimax polynomial of (2^f - 1) / f on [-1/2, 1/2]: relative error of 2^f below 2.6e-9, and
// 2^0 = 1 exactly.
inline constexpr float kExp2Poly[6] = {0.6931472149680279F,
                                       0.24022652782887738F,
                                       0.05550310551013797F,
                                       0.009617692972993062F,
                                       0.0013406643902351759F,
                                       0.0001559467816132662F};

}  // namespace ringserve
