#include <algorithm>
#include <type_traits>

#include "kernels/embed.h"

namespace ringserve {
namespace {

template <typename Element>
void WidenRow(const Element* from, int32_t count, float* to) {
  std::transform(from, from + count, to, [](Element value) { return ToFloat(value); });
}

// Scales or adds: a row as it stands, or one beside others.
template <typename Element>
void CombineRow(const Element* from, const EmbedArgs& args, float* to) {
  for (int32_t i = 0; i < args.hidden_dim; ++i) {
    float value = 0;
    if constexpr (std::is_same_v<Element, float>) {
      value = from[i];
    } else {
      value = ToFloat(from[i]);
    }
    to[i] = value * args.scale + (args.accumulate ? to[i] : 0.0F);
  }
}

}  // namespace

void EmbedCpu(const EmbedArgs& args) {
  const int64_t hidden_dim = args.hidden_dim;
  for (int64_t i = 0; i < args.num_rows; ++i) {
    const std::byte* row =
        args.table + args.token_ids[i] * hidden_dim * DTypeBytes(args.table_dtype);
    float* out = args.out + i * hidden_dim;
    if (args.scale != 1.0F || args.accumulate) {
      switch (args.table_dtype) {
        case DType::kF32:
          CombineRow(reinterpret_cast<const float*>(row), args, out);
          break;
        case DType::kBf16:
          CombineRow(reinterpret_cast<const Bf16*>(row), args, out);
          break;
        case DType::kF16:
          CombineRow(reinterpret_cast<const F16*>(row), args, out);
          break;
      }
      continue;
    }
    switch (args.table_dtype) {
      case DType::kF32:
        std::copy_n(reinterpret_cast<const float*>(row), hidden_dim, out);
        break;
      case DType::kBf16:
        WidenRow(reinterpret_cast<const Bf16*>(row), args.hidden_dim, out);
        break;
      case DType::kF16:
        WidenRow(reinterpret_cast<const F16*>(row), args.hidden_dim, out);
        break;
    }
  }
}

}  // namespace ringserve
