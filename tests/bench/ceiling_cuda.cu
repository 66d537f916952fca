#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/matmul_cuda.h"
#include "tests/bench/ceiling_cuda.h"

namespace ringserve {
namespace {

constexpr int64_t kReadBytes = int64_t{4} << 30;
constexpr int32_t kSize = 8192;
constexpr int32_t kRepeats = 15;

struct Freed {
  void operator()(void* data) const { cudaFree(data); }
};

using DeviceBytes = std::unique_ptr<std::byte, Freed>;

DeviceBytes Allocate(int64_t bytes) {
  void* data = nullptr;
  return DeviceBytes(cudaMalloc(&data, static_cast<size_t>(bytes)) == cudaSuccess
                         ? static_cast<std::byte*>(data)
                         : nullptr);
}

__global__ void __launch_bounds__(512)
    ReadKernel(const uint4* data, int64_t count, uint32_t* sink) {
  uint32_t folded = 0;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 parts[4];
#pragma unroll
    for (int32_t j = 0; j < 4; ++j) {
      parts[j] = __ldcs(data + i + j * stride);
    }
#pragma unroll
    for (int32_t j = 0; j < 4; ++j) {
      folded ^= parts[j].x ^ parts[j].y ^ parts[j].z ^ parts[j].w;
    }
  }
  if (folded == 0x12345678U) {
    *sink = folded;
  }
}

__global__ void FillKernel(__nv_bfloat16* data, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) {
    uint64_t x = (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15U;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    data[i] = __float2bfloat16(static_cast<float>(x >> 40) * 0x1p-23F - 1.0F);
  }
}

__global__ void EmptyKernel() {}

// Median seconds of `run`, enqueued on the default stream.
double MedianSeconds(const std::function<bool()>& run) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  if (cudaEventCreate(&begin) != cudaSuccess || cudaEventCreate(&end) != cudaSuccess) {
    return 0;
  }
  std::vector<float> times;
  bool ok = run();
  for (int32_t i = 0; ok && i < kRepeats; ++i) {
    float ms = 0;
    cudaEventRecord(begin);
    ok = run();
    cudaEventRecord(end);
    ok = ok && cudaEventSynchronize(end) == cudaSuccess &&
         cudaEventElapsedTime(&ms, begin, end) == cudaSuccess;
    times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  if (!ok) {
    return 0;
  }
  std::sort(times.begin(), times.end());
  return static_cast<double>(times[times.size() / 2]) * 1e-3;
}

}  // namespace

double MeasureDeviceRead() {
  const DeviceBytes data = Allocate(kReadBytes);
  const DeviceBytes sink = Allocate(4);
  if (data == nullptr || sink == nullptr || cudaMemset(data.get(), 1, kReadBytes) != cudaSuccess) {
    return 0;
  }
  const double seconds = MedianSeconds([&] {
    ReadKernel<<<132 * 4, 512>>>(reinterpret_cast<const uint4*>(data.get()),
                                 kReadBytes / 16,
                                 reinterpret_cast<uint32_t*>(sink.get()));
    return cudaGetLastError() == cudaSuccess;
  });
  return seconds > 0 ? static_cast<double>(kReadBytes) / seconds : 0;
}

double MeasureDeviceProduct() {
  constexpr int64_t kCount = int64_t{kSize} * kSize;
  const DeviceBytes x = Allocate(2 * kCount);
  const DeviceBytes weight = Allocate(2 * kCount);
  const DeviceBytes out = Allocate(4 * kCount);
  const DeviceBytes workspace =
      Allocate(std::max<int64_t>(1, static_cast<int64_t>(cuda::MatMulDevice::WorkspaceBytes())));
  std::unique_ptr<cuda::MatMulDevice> device;
  const Matrix matrix = {.data = weight.get(), .rows = kSize, .cols = kSize, .dtype = DType::kBf16};
  if (x == nullptr || weight == nullptr || out == nullptr || workspace == nullptr ||
      cuda::MatMulDevice::Create(0, workspace.get(), device) != cudaSuccess) {
    return 0;
  }
  for (std::byte* data : {x.get(), weight.get()}) {
    FillKernel<<<kCount / 256, 256>>>(reinterpret_cast<__nv_bfloat16*>(data), kCount);
  }
  const double seconds = MedianSeconds([&] {
    return device->Launch({.x = x.get(),
                           .weight = matrix,
                           .out = reinterpret_cast<float*>(out.get()),
                           .num_rows = kSize},
                          nullptr) == cudaSuccess;
  });
  return seconds > 0 ? 2.0 * static_cast<double>(kCount) * kSize / seconds : 0;
}

double MeasureLaunch(int32_t count) {
  const double seconds = MedianSeconds([&] {
    for (int32_t i = 0; i < count; ++i) {
      EmptyKernel<<<132, 128>>>();
    }
    return cudaGetLastError() == cudaSuccess;
  });
  return seconds / count;
}

CopyCeilings MeasurePinnedCopies() {
  constexpr size_t kBytes = size_t{64} << 20;
  constexpr int32_t kCopies = 16;
  const DeviceBytes device = Allocate(2 * kBytes);
  void* pinned = nullptr;
  cudaStream_t streams[2] = {};
  CopyCeilings found;
  if (device == nullptr || cudaHostAlloc(&pinned, 2 * kBytes, 0) != cudaSuccess ||
      cudaStreamCreateWithFlags(&streams[0], cudaStreamNonBlocking) != cudaSuccess ||
      cudaStreamCreateWithFlags(&streams[1], cudaStreamNonBlocking) != cudaSuccess) {
    return found;
  }
  auto* host = static_cast<std::byte*>(pinned);
  const auto rate = [&](bool to_host, bool to_device) {
    double best = 0;
    for (int32_t round = 0; round < 3; ++round) {
      const auto started = std::chrono::steady_clock::now();
      for (int32_t i = 0; i < kCopies; ++i) {
        if (to_host) {
          cudaMemcpyAsync(host, device.get(), kBytes, cudaMemcpyDeviceToHost, streams[0]);
        }
        if (to_device) {
          cudaMemcpyAsync(
              device.get() + kBytes, host + kBytes, kBytes, cudaMemcpyHostToDevice, streams[1]);
        }
      }
      if (cudaDeviceSynchronize() != cudaSuccess) {
        return 0.0;
      }
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
      const double bytes = static_cast<double>(kBytes) * kCopies * (to_host && to_device ? 2 : 1);
      best = std::max(best, bytes / seconds.count());
    }
    return best;
  };
  found = {.to_host = rate(true, false), .to_device = rate(false, true), .both = rate(true, true)};
  cudaStreamDestroy(streams[0]);
  cudaStreamDestroy(streams[1]);
  cudaFreeHost(pinned);
  return found;
}

}  // namespace ringserve
