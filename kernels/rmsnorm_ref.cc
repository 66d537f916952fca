#include <cmath>

#include "kernels/rmsnorm.h"

namespace ringserve {

template <typename T>
void RmsNormRef(const RmsNormArgs& args, T* out) {
  const int64_t hidden_dim = args.hidden_dim;
  for (int64_t i = 0; i < args.num_rows; ++i) {
    const auto sum_at = [&](int64_t j) {
      const int64_t index = i * hidden_dim + j;
      const T residual = args.residual_in == nullptr ? T{0} : T{args.residual_in[index]};
      return T{args.x[index]} + residual;
    };
    T sum = 0;
    for (int64_t j = 0; j < hidden_dim; ++j) {
      sum += sum_at(j) * sum_at(j);
    }
    const T scale = 1 / std::sqrt(sum / static_cast<T>(hidden_dim) + T{args.eps});
    for (int64_t j = 0; j < hidden_dim; ++j) {
      out[i * hidden_dim + j] = sum_at(j) * scale * T{args.weight[j]};
    }
  }
}

template void RmsNormRef<float>(const RmsNormArgs& args, float* out);
template void RmsNormRef<double>(const RmsNormArgs& args, double* out);

}  // namespace ringserve
