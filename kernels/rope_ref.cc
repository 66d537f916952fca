#include "kernels/rope.h"

namespace ringserve {

template <typename T>
void RopeRef(const RopeAppendArgs& args, T* out) {
  const int32_t head_dim = args.kv.layout.head_dim;
  const int32_t half = head_dim / 2;
  const int32_t num_rotated = args.num_heads + args.kv.layout.num_kv_heads;
  const int32_t num_all = num_rotated + args.kv.layout.num_kv_heads;
  for (int64_t row = 0; row < args.num_rows; ++row) {
    const float* angles = args.angles + row * head_dim;
    for (int32_t head = 0; head < num_all; ++head) {
      const int64_t offset = (row * num_all + head) * head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const T low = args.qkv[offset + i];
        const T high = args.qkv[offset + i + half];
        const T cosine = head < num_rotated ? angles[2 * i] : 1.0F;
        const T sine = head < num_rotated ? angles[2 * i + 1] : 0.0F;
        out[offset + i] = low * cosine - high * sine;
        out[offset + i + half] = high * cosine + low * sine;
      }
    }
  }
}

template void RopeRef<float>(const RopeAppendArgs&, float*);
template void RopeRef<double>(const RopeAppendArgs&, double*);

}  // namespace ringserve
