#include "kernels/matmul.h"
#include "kernels/matmul_layout.h"

namespace ringserve {
namespace {

float Widen(float value) {
  return value;
}

float Widen(Bf16 value) {
  return ToFloat(value);
}

template <typename T, typename Element>
void Multiply(const MatMulArgs& args, T* out) {
  const auto* x = static_cast<const Element*>(args.x);
  const auto* weight = reinterpret_cast<const Element*>(args.weight.data);
  const int64_t cols = args.weight.cols;
  for (int64_t i = 0; i < args.num_rows; ++i) {
    for (int64_t j = 0; j < args.weight.rows; ++j) {
      T sum = 0;
      for (int64_t k = 0; k < cols; ++k) {
        sum += static_cast<T>(Widen(x[i * cols + k])) *
               static_cast<T>(Widen(weight[PackedIndex(j, k, cols, args.weight.dtype)]));
      }
      out[i * args.weight.rows + j] = sum;
    }
  }
}

}  // namespace

template <typename T>
void MatMulRef(const MatMulArgs& args, T* out) {
  if (args.weight.dtype == DType::kBf16) {
    Multiply<T, Bf16>(args, out);
  } else {
    Multiply<T, float>(args, out);
  }
}

template void MatMulRef<float>(const MatMulArgs& args, float* out);
template void MatMulRef<double>(const MatMulArgs& args, double* out);

}  // namespace ringserve
