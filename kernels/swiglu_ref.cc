#include <cmath>

#include "kernels/swiglu.h"

namespace ringserve {

template <typename T>
void SwiGluRef(const SwiGluArgs& args, T* out) {
  const int64_t ffn_dim = args.ffn_dim;
  for (int64_t i = 0; i < args.num_rows; ++i) {
    const float* gate = args.gate_up + i * 2 * ffn_dim;
    for (int64_t j = 0; j < ffn_dim; ++j) {
      const T g = gate[j];
      out[i * ffn_dim + j] = g / (1 + std::exp(-g)) * T{gate[ffn_dim + j]};
    }
  }
}

template void SwiGluRef<float>(const SwiGluArgs& args, float* out);
template void SwiGluRef<double>(const SwiGluArgs& args, double* out);

}  // namespace ringserve
