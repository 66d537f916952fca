#include <cmath>

#include "kernels/swiglu.h"
#include "kernels/thread_pool.h"

namespace ringserve {

void SwiGluCpu(const SwiGluArgs& args, ThreadPool& pool) {
  const int64_t ffn_dim = args.ffn_dim;
  pool.ParallelFor(args.num_rows, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first * ffn_dim; i < last * ffn_dim; ++i) {
      const float* gate = args.gate_up + i / ffn_dim * ffn_dim + i;
      const float value = *gate / (1 + std::exp(-*gate)) * gate[ffn_dim];
      if (args.out_dtype == DType::kBf16) {
        static_cast<Bf16*>(args.out)[i] = ToBf16(value);
      } else {
        static_cast<float*>(args.out)[i] = value;
      }
    }
  });
}

}  // namespace ringserve
