#include <cmath>
#include <vector>

#include "kernels/layernorm.h"

namespace ringserve {

template <typename T>
void LayerNormRef(const LayerNormArgs& args, T* out) {
  const int64_t hidden_dim = args.hidden_dim;
  std::vector<T> x(static_cast<size_t>(hidden_dim));
  for (int64_t row = 0; row < args.num_rows; ++row) {
    T sum = 0;
    for (int64_t i = 0; i < hidden_dim; ++i) {
      const int64_t at = row * hidden_dim + i;
      x[i] = T{args.x[at]} + (args.residual_in == nullptr ? T{0} : T{args.residual_in[at]});
      sum += x[i];
    }
    const T mean = sum / static_cast<T>(hidden_dim);
    T squares = 0;
    for (const T value : x) {
      squares += (value - mean) * (value - mean);
    }
    const T scale = T{1} / std::sqrt(squares / static_cast<T>(hidden_dim) + T{args.eps});
    for (int64_t i = 0; i < hidden_dim; ++i) {
      out[row * hidden_dim + i] = (x[i] - mean) * scale * T{args.weight[i]} + T{args.bias[i]};
    }
  }
}

template void LayerNormRef<float>(const LayerNormArgs&, float*);
template void LayerNormRef<double>(const LayerNormArgs&, double*);

}  // namespace ringserve
