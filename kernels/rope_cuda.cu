#include "kernels/cuda_util.cuh"
#include "kernels/launch_cuda.h"
#include "kernels/rope_cuda.cuh"
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
  const double frequency = args.frequencies[i % half];
  const double magnitude = frequency == 0 ? 1.0 : args.magnitude;
  sincos(Angle(args.positions[i / half], frequency), &sine, &cosine);
  reinterpret_cast<float2*>(args.angles)[i] = {static_cast<float>(cosine * magnitude),
                                               static_cast<float>(sine * magnitude)};
}

template <typename T>
__device__ __forceinline__ void StorePair(T* to, uint32_t pair) {
  *reinterpret_cast<uint32_t*>(to) = pair;
}

// Where a key or a value of the head goes.
template <typename T>
__device__ __forceinline__ T* PlaceInPool(const KvView& kv,
                                          int64_t slot,
                                          int32_t kv_head,
                                          bool is_key) {
  const KvLayout& layout = kv.layout;
  const auto block = static_cast<int32_t>(slot / layout.block_size);
  std::byte* plane = kv.pool + block * layout.block_bytes() + kv.layer * layout.layer_bytes() +
                     (is_key ? kv_head : layout.num_kv_heads + kv_head) * layout.plane_bytes();
  return reinterpret_cast<T*>(plane) + slot % layout.block_size * layout.head_dim;
}

// What a head's elements are multiplied by before their weights, over the warp that holds it.
__device__ __forceinline__ float NormScale(const float* head, int32_t head_dim, float eps) {
  float sum = 0;
  for (auto i = static_cast<int32_t>(threadIdx.x % 32 * 2); i < head_dim; i += 64) {
    const float2 value = *reinterpret_cast<const float2*>(head + i);
    sum = __fmaf_rn(value.x, value.x, sum);
    sum = __fmaf_rn(value.y, value.y, sum);
  }
  for (int32_t distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xffffffffU, sum, distance);
  }
  return __frsqrt_rn(__fdiv_rn(sum, static_cast<float>(head_dim)) + eps);
}

__device__ __forceinline__ float2 Normed(float2 value, float scale, const float* weight) {
  const float2 by = *reinterpret_cast<const float2*>(weight);
  return {value.x * scale * by.x, value.y * scale * by.y};
}

// One warp per row and head of the fused projection; lane j takes dimensions 2j and 2j + 1 of each
// half, then 64 further. The next kernel may start at once: what attention reads without waiting
// for this one are keys of earlier steps.
template <typename T>
__global__ void __launch_bounds__(kThreads) RopeAppendKernel(const RopeAppendArgs args) {
  const KvLayout& layout = args.kv.layout;
  const int32_t num_all = args.num_heads + 2 * layout.num_kv_heads;
  const int64_t unit = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  const int64_t row = unit / num_all;
  const auto head = static_cast<int32_t>(unit - row * num_all);
  const int32_t head_dim = layout.head_dim;
  const int32_t half = head_dim / 2;
  const bool is_query = head < args.num_heads;
  const bool is_key = !is_query && head < args.num_heads + layout.num_kv_heads;
  const int32_t kv_head = head - args.num_heads - (is_query || is_key ? 0 : layout.num_kv_heads);
  AllowNextKernel();
  WaitForPreviousKernel();
  if (row >= args.num_rows) {
    return;
  }
  T* to = static_cast<T*>(args.q) + (row * args.num_heads + head) * head_dim;
  T* sink = nullptr;
  if (!is_query) {
    to = PlaceInPool<T>(args.kv, args.slots[row], kv_head, is_key);
    const int64_t sink_slot = args.sink_slots == nullptr ? -1 : args.sink_slots[row];
    sink = sink_slot < 0 ? nullptr : PlaceInPool<T>(args.kv, sink_slot, kv_head, is_key);
  }
  const float* from = args.qkv + unit * head_dim;
  const float* norm = is_query ? args.q_norm : is_key ? args.k_norm : nullptr;
  const float scale = norm == nullptr ? 1.0F : NormScale(from, head_dim, args.norm_eps);
  const auto* angles = reinterpret_cast<const float4*>(args.angles + row * head_dim);
  for (auto i = static_cast<int32_t>(threadIdx.x % 32 * 2); i < half; i += 64) {
    float2 low = *reinterpret_cast<const float2*>(from + i);
    float2 high = *reinterpret_cast<const float2*>(from + half + i);
    if (norm != nullptr) {
      low = Normed(low, scale, norm + i);
      high = Normed(high, scale, norm + half + i);
    }
    const uint32_t plain_low = Pack<T>(low.x, low.y);
    const uint32_t plain_high = Pack<T>(high.x, high.y);
    if (is_query || is_key) {
      const RotatedPairs<T> pairs(low, high, angles[i / 2]);
      StorePair(to + i, pairs.low);
      StorePair(to + half + i, pairs.high);
    } else {
      StorePair(to + i, plain_low);
      StorePair(to + half + i, plain_high);
    }
    if (sink != nullptr) {
      StorePair(sink + i, plain_low);
      StorePair(sink + half + i, plain_high);
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
    return LaunchOverlapping(RopeAppendKernel<__nv_bfloat16>, blocks, kThreads, 0, stream, args);
  }
  return LaunchOverlapping(RopeAppendKernel<__half>, blocks, kThreads, 0, stream, args);
}

}  // namespace ringserve::cuda
