#include "kernels/cuda_util.cuh"
#include "kernels/rope_cuda.h"

namespace ringserve::cuda {
namespace {

constexpr int32_t kThreads = 128;

// position * frequency modulo 2 pi as in rope_angles.cc: the product as a sum of two doubles.
__device__ double Angle(int64_t position, double frequency) {
  constexpr double kTurn = 6.283185307179586;
  constexpr double kTurnLow = 2.4492935982947064e-16;
  constexpr double kTurns = 0.15915494309189535;
  const auto exact = static_cast<double>(position);
  const double product = __dmul_rn(exact, frequency);
  const double rest = __fma_rn(exact, frequency, -product);
  const double turns = nearbyint(__dmul_rn(product, kTurns));
  const double reduced = __fma_rn(-turns, kTurn, product);
  return __dadd_rn(__fma_rn(-turns, kTurnLow, reduced), rest);
}

__global__ void __launch_bounds__(kThreads) RopeAnglesKernel(const RopeAnglesArgs args) {
  const int32_t half = args.head_dim / 2;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= int64_t{args.num_rows} * half) {
    return;
  }
  double sine = 0;
  double cosine = 0;
  sincos(Angle(args.positions[i / half], args.frequencies[i % half]), &sine, &cosine);
  reinterpret_cast<float2*>(args.angles)[i] = {static_cast<float>(cosine),
                                               static_cast<float>(sine)};
}

// One warp per row and head of the fused projection; lane j takes pairs j, j + 32, ...
template <typename T>
__global__ void __launch_bounds__(kThreads) RopeAppendKernel(const RopeAppendArgs args) {
  const KvLayout& layout = args.kv.layout;
  const int32_t num_all = args.num_heads + 2 * layout.num_kv_heads;
  const int64_t unit = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (unit >= int64_t{args.num_rows} * num_all) {
    return;
  }
  const int64_t row = unit / num_all;
  const auto head = static_cast<int32_t>(unit % num_all);
  const int32_t head_dim = layout.head_dim;
  const int32_t half = head_dim / 2;
  const float* from = args.qkv + unit * head_dim;
  const auto* angles = reinterpret_cast<const float2*>(args.angles) + row * half;
  const bool is_query = head < args.num_heads;
  const bool is_key = !is_query && head < args.num_heads + layout.num_kv_heads;
  const auto place = [&](int64_t slot) {
    const auto block = static_cast<int32_t>(slot / layout.block_size);
    const int64_t offset = slot % layout.block_size * head_dim;
    const int32_t kv_head = (head - args.num_heads) % layout.num_kv_heads;
    std::byte* plane = args.kv.pool + block * layout.block_bytes() +
                       args.kv.layer * layout.layer_bytes() + kv_head * layout.plane_bytes();
    plane += is_key ? 0 : layout.num_kv_heads * layout.plane_bytes();
    return reinterpret_cast<T*>(plane) + offset;
  };
  T* to = is_query ? static_cast<T*>(args.q) + (row * args.num_heads + head) * head_dim
                   : place(args.slots[row]);
  const int64_t sink_slot = is_query || args.sink_slots == nullptr ? -1 : args.sink_slots[row];
  T* sink = sink_slot < 0 ? nullptr : place(sink_slot);
  for (auto i = static_cast<int32_t>(threadIdx.x % 32); i < half; i += 32) {
    const float low = from[i];
    const float high = from[i + half];
    float low_out = low;
    float high_out = high;
    if (is_query || is_key) {
      const float2 angle = angles[i];  // cosine, sine
      low_out = __fmaf_rn(low, angle.x, -__fmul_rn(high, angle.y));
      high_out = __fmaf_rn(high, angle.x, __fmul_rn(low, angle.y));
    }
    to[i] = static_cast<T>(low_out);
    to[i + half] = static_cast<T>(high_out);
    if (sink != nullptr) {
      sink[i] = static_cast<T>(low);
      sink[i + half] = static_cast<T>(high);
    }
  }
}

}  // namespace

cudaError_t LaunchRopeAngles(const RopeAnglesArgs& args, cudaStream_t stream) {
  const int64_t pairs = int64_t{args.num_rows} * (args.head_dim / 2);
  if (pairs == 0) {
    return cudaSuccess;
  }
  RopeAnglesKernel<<<static_cast<unsigned>(CeilDiv<int64_t>(pairs, kThreads)),
                     kThreads,
                     0,
                     stream>>>(args);
  return cudaGetLastError();
}

cudaError_t LaunchRopeAppend(const RopeAppendArgs& args, cudaStream_t stream) {
  const KvLayout& layout = args.kv.layout;
  if (args.q_dtype != layout.dtype || args.q_dtype == DType::kF32 || layout.head_dim % 8 != 0) {
    return cudaErrorInvalidValue;
  }
  const int64_t units = int64_t{args.num_rows} * (args.num_heads + 2 * layout.num_kv_heads);
  if (units == 0) {
    return cudaSuccess;
  }
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(units, kThreads / 32));
  if (args.q_dtype == DType::kBf16) {
    RopeAppendKernel<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(args);
  } else {
    RopeAppendKernel<__half><<<blocks, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace ringserve::cuda
