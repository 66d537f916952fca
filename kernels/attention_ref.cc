#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "kernels/attention.h"

namespace ringserve {
namespace {

template <typename T>
T Load(const void* data, DType dtype, int64_t index) {
  return dtype == DType::kF32 ? T{static_cast<const float*>(data)[index]}
                              : T{ToFloat(static_cast<const Bf16*>(data)[index])};
}

template <typename T>
T Rounded(T value, DType dtype) {
  return dtype == DType::kF32 ? value : T{ToFloat(ToBf16(static_cast<float>(value)))};
}

// Key `key` of an entry, as the dot product takes it: a sink is rotated here. In float it is then
// rounded to the type of the cache, as the kernels do; in double it stays as exact as it can be.
template <typename T>
void LoadKey(
    const AttentionArgs& args, const BlockEntry& entry, int32_t kv_head, int32_t key, T* out) {
  const KvLayout& layout = args.kv.layout;
  const int64_t half = layout.head_dim / 2;
  const std::byte* keys = args.kv.Keys(entry.block, kv_head);
  for (int32_t i = 0; i < layout.head_dim; ++i) {
    out[i] = Load<T>(keys, layout.dtype, int64_t{key} * layout.head_dim + i);
  }
  if (entry.sink_angle_row < 0) {
    return;
  }
  const float* angles = args.angles + int64_t{entry.sink_angle_row + key} * layout.head_dim;
  for (int64_t i = 0; i < half; ++i) {
    const T cosine = angles[2 * i];
    const T sine = angles[2 * i + 1];
    const T low = out[i];
    const T high = out[i + half];
    out[i] = low * cosine - high * sine;
    out[i + half] = high * cosine + low * sine;
    if constexpr (std::is_same_v<T, float>) {
      out[i] = Rounded(out[i], layout.dtype);
      out[i + half] = Rounded(out[i + half], layout.dtype);
    }
  }
}

template <typename T>
void RowRef(const AttentionArgs& args,
            const TileSequence& sequence,
            int32_t row,
            int32_t head,
            DType round_p,
            T* out) {
  const KvLayout& layout = args.kv.layout;
  const TilePlan& plan = *args.plan;
  const int32_t head_dim = layout.head_dim;
  const int32_t kv_head = head / (args.num_heads / layout.num_kv_heads);
  const int64_t position = sequence.first_position + (row - sequence.first_row);
  std::vector<T> scores;
  std::vector<const std::byte*> values;
  std::vector<T> key_vector(head_dim);
  for (int32_t e = 0; e < sequence.num_entries; ++e) {
    const BlockEntry& entry = plan.entries[sequence.first_entry + e];
    for (int32_t key = 0; key < entry.num_keys; ++key) {
      const int64_t key_position = entry.position + key;
      if (plan.causal && entry.sink_angle_row < 0 &&
          (key_position > position || key_position <= position - plan.window)) {
        continue;
      }
      LoadKey(args, entry, kv_head, key, key_vector.data());
      T dot = 0;
      for (int32_t i = 0; i < head_dim; ++i) {
        dot += key_vector[i] *
               Load<T>(args.q, args.q_dtype, row * args.q_stride + int64_t{head} * head_dim + i);
      }
      T score = dot * T{args.scale};
      if (args.softcap > 0) {
        score = T{args.softcap} * std::tanh(score / T{args.softcap});
      }
      if (args.position_bias != nullptr) {
        const int64_t reach = args.bias_reach;
        const int64_t distance = std::clamp<int64_t>(key_position - position, -reach, reach);
        score += T{args.position_bias[head * (2 * reach + 1) + reach + distance]};
      }
      scores.push_back(score);
      values.push_back(args.kv.Values(entry.block, kv_head) +
                       int64_t{key} * head_dim * DTypeBytes(layout.dtype));
    }
  }
  T largest = -std::numeric_limits<T>::infinity();
  for (const T score : scores) {
    largest = std::max(largest, score);
  }
  T sum = 0;
  if (args.sink_logits != nullptr) {
    largest = std::max(largest, T{args.sink_logits[head]});
    sum = std::exp(T{args.sink_logits[head]} - largest);
  }
  std::fill_n(out, head_dim, T{0});
  for (size_t key = 0; key < scores.size(); ++key) {
    const T weight = std::exp(scores[key] - largest);
    sum += weight;
    const T rounded = Rounded(weight, round_p);
    for (int32_t i = 0; i < head_dim; ++i) {
      out[i] += rounded * Load<T>(values[key], layout.dtype, i);
    }
  }
  for (int32_t i = 0; i < head_dim; ++i) {
    out[i] /= sum;
  }
}

}  // namespace

template <typename T>
void AttentionRef(const AttentionArgs& args, DType round_p, T* out) {
  for (const TileSequence& sequence : args.plan->sequences) {
    for (int32_t row = sequence.first_row; row < sequence.first_row + sequence.num_rows; ++row) {
      for (int32_t head = 0; head < args.num_heads; ++head) {
        const int64_t offset = (int64_t{row} * args.num_heads + head) * args.kv.layout.head_dim;
        RowRef(args, sequence, row, head, round_p, out + offset);
      }
    }
  }
}

template void AttentionRef<float>(const AttentionArgs&, DType, float*);
template void AttentionRef<double>(const AttentionArgs&, DType, double*);

}  // namespace ringserve
