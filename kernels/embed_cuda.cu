#include "kernels/cuda_util.cuh"
#include "kernels/embed_cuda.h"

namespace ringserve::cuda {
namespace {

constexpr int32_t kThreads = 256;

template <typename T>
__device__ __forceinline__ float AsFloat(T value) {
  return static_cast<float>(value);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    EmbedKernel(const EmbedArgs args, const int32_t* feedback) {
  const int64_t row = blockIdx.x;
  int32_t token_id = args.token_ids[row];
  if (token_id < 0) {
    token_id = feedback[~token_id];
  }
  // An id that a failed step left behind must not become a wild read.
  const bool is_valid = token_id >= 0 && token_id < args.vocab_size;
  const T* from = reinterpret_cast<const T*>(args.table) + int64_t{token_id} * args.hidden_dim;
  float* out = args.out + row * args.hidden_dim;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < args.hidden_dim; i += kThreads) {
    out[i] = is_valid ? AsFloat(from[i]) : nanf("");
  }
}

}  // namespace

cudaError_t LaunchEmbed(const EmbedArgs& args, const int32_t* feedback, cudaStream_t stream) {
  if (args.num_rows == 0) {
    return cudaSuccess;
  }
  const dim3 grid(static_cast<unsigned>(args.num_rows));
  switch (args.table_dtype) {
    case DType::kBf16:
      EmbedKernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(args, feedback);
      break;
    case DType::kF16:
      EmbedKernel<__half><<<grid, kThreads, 0, stream>>>(args, feedback);
      break;
    case DType::kF32:
      EmbedKernel<float><<<grid, kThreads, 0, stream>>>(args, feedback);
      break;
  }
  return cudaGetLastError();
}

}  // namespace ringserve::cuda
