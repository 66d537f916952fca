// What the benchmarks of CUDA kernels share: random data made on the device, times of graph
// replays, and the ceilings of the run (read, copy, cuBLAS product).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cublas_v2.h>
#include <dlfcn.h>
#include <functional>
#include <vector>

#include <cuda_bf16.h>

#include "tests/support/device_memory.h"

namespace ringserve::bench {

// About normal, times `scale`.
static __global__ void FillRandom(__nv_bfloat16* values,
                                  int64_t count,
                                  uint32_t seed,
                                  float scale) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    float sum = 0;
    auto state = static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15ULL + seed * 0xd1342543de82ef95ULL;
    for (int32_t j = 0; j < 4; ++j) {
      state ^= state >> 30;
      state *= 0xbf58476d1ce4e5b9ULL;
      state ^= state >> 27;
      sum += static_cast<float>(state >> 40) * 0x1p-24F - 0.5F;
    }
    values[i] = __float2bfloat16(sum * 1.732F * scale);
  }
}

static __global__ void __launch_bounds__(1024)
    ReadAll(const uint4* values, int64_t count, uint32_t* out) {
  uint32_t sum = 0;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i + 7 * stride < count;
       i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int32_t j = 0; j < 8; ++j) {
      v[j] = __ldcs(values + i + j * stride);
    }
#pragma unroll
    for (int32_t j = 0; j < 8; ++j) {
      sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
  }
  if (sum == 0x12345678U) {
    *out = sum;
  }
}

// Median time in microseconds of one of `count` calls of enqueue(i), replayed as one graph.
inline double Measure(int32_t count,
                      const std::function<void(int32_t, cudaStream_t)>& enqueue,
                      int32_t replays = 7) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaEvent_t begin;
  cudaEvent_t end;
  CheckCuda(cudaStreamCreate(&stream), "stream");
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int32_t i = 0; i < count; ++i) {
    enqueue(i, stream);
  }
  CheckCuda(cudaStreamEndCapture(stream, &graph), "capture");
  CheckCuda(cudaGraphInstantiate(&exec, graph, 0), "graph");
  CheckCuda(cudaEventCreate(&begin), "event");
  CheckCuda(cudaEventCreate(&end), "event");
  std::vector<double> times;
  for (int32_t replay = 0; replay < replays + 2; ++replay) {
    CheckCuda(cudaEventRecord(begin, stream), "event");
    CheckCuda(cudaGraphLaunch(exec, stream), "replay");
    CheckCuda(cudaEventRecord(end, stream), "event");
    CheckCuda(cudaEventSynchronize(end), "replay");
    float ms = 0;
    CheckCuda(cudaEventElapsedTime(&ms, begin, end), "event");
    if (replay >= 2) {
      times.push_back(ms * 1000.0 / count);
    }
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// cuBLAS where the machine has it: out [rows, n] floats = x [rows, k] * weight [n, k]^T.
class CuBlas {
 public:
  CuBlas() {
    void* library = dlopen("libcublas.so.13", RTLD_NOW);
    if (library == nullptr) {
      std::printf("no libcublas.so.13 (%s)\n", dlerror());
      return;
    }
    const auto create =
        reinterpret_cast<decltype(&cublasCreate_v2)>(dlsym(library, "cublasCreate_v2"));
    set_stream_ =
        reinterpret_cast<decltype(&cublasSetStream_v2)>(dlsym(library, "cublasSetStream_v2"));
    gemm_ = reinterpret_cast<Gemm>(dlsym(library, "cublasGemmEx"));
    const auto set_workspace =
        reinterpret_cast<decltype(&cublasSetWorkspace_v2)>(dlsym(library, "cublasSetWorkspace_v2"));
    if (create(&handle_) != CUBLAS_STATUS_SUCCESS) {
      handle_ = nullptr;
      return;
    }
    set_workspace_ = set_workspace;
  }

  bool found() const { return handle_ != nullptr; }

  void Product(const __nv_bfloat16* x,
               const __nv_bfloat16* weight,
               void* out,
               cudaDataType out_type,
               int32_t rows,
               int32_t n,
               int32_t k,
               cudaStream_t stream) {
    const float one = 1;
    const float zero = 0;
    set_stream_(handle_, stream);
    set_workspace_(handle_, workspace_.as(), workspace_.bytes());
    const cublasStatus_t status = gemm_(handle_,
                                        CUBLAS_OP_T,
                                        CUBLAS_OP_N,
                                        n,
                                        rows,
                                        k,
                                        &one,
                                        weight,
                                        CUDA_R_16BF,
                                        k,
                                        x,
                                        CUDA_R_16BF,
                                        k,
                                        &zero,
                                        out,
                                        out_type,
                                        n,
                                        CUBLAS_COMPUTE_32F,
                                        CUBLAS_GEMM_DEFAULT);
    if (status != CUBLAS_STATUS_SUCCESS) {
      std::printf("cublasGemmEx: %d\n", static_cast<int>(status));
    }
  }

 private:
  using Gemm = cublasStatus_t (*)(cublasHandle_t,
                                  cublasOperation_t,
                                  cublasOperation_t,
                                  int,
                                  int,
                                  int,
                                  const void*,
                                  const void*,
                                  cudaDataType,
                                  int,
                                  const void*,
                                  cudaDataType,
                                  int,
                                  const void*,
                                  void*,
                                  cudaDataType,
                                  int,
                                  cublasComputeType_t,
                                  cublasGemmAlgo_t);
  cublasHandle_t handle_ = nullptr;
  decltype(&cublasSetStream_v2) set_stream_ = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace_ = nullptr;
  Gemm gemm_ = nullptr;
  DeviceMemory workspace_{64 << 20};
};

struct Ceilings {
  double read_gbs = 0;
  double product_tflops = 0;
};

// `pool` of at least 2 GiB of random data.
inline Ceilings MeasureCeilings(const DeviceMemory& pool, int32_t num_sms, CuBlas& cublas) {
  Ceilings ceilings;
  const DeviceMemory sink(4);
  const int64_t bytes = int64_t{1} << 30;
  for (const int32_t blocks : {1, 2}) {
    const double us = Measure(4, [&](int32_t i, cudaStream_t stream) {
      ReadAll<<<num_sms * blocks, 1024, 0, stream>>>(
          pool.as<uint4>() + i % 2 * (bytes / 16), bytes / 16, sink.as<uint32_t>());
    });
    ceilings.read_gbs = std::max(ceilings.read_gbs, static_cast<double>(bytes) / us / 1e3);
  }
  if (cublas.found()) {
    constexpr int32_t kSize = 8192;
    const DeviceMemory out(size_t{2} * kSize * kSize);
    const double us = Measure(6, [&](int32_t, cudaStream_t stream) {
      cublas.Product(pool.as<__nv_bfloat16>(),
                     pool.as<__nv_bfloat16>() + int64_t{kSize} * kSize,
                     out.as(),
                     CUDA_R_16BF,
                     kSize,
                     kSize,
                     kSize,
                     stream);
    });
    ceilings.product_tflops = 2.0 * kSize * kSize * kSize / us / 1e6;
  }
  std::printf("ceilings: read %.0f GB/s, cuBLAS bf16 product 8192^3 %.0f TFLOP/s\n",
              ceilings.read_gbs,
              ceilings.product_tflops);
  return ceilings;
}

}  // namespace ringserve::bench
