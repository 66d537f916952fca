// Device memory for tests and benchmarks: owns its bytes, aborts on a CUDA error.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include <cuda_runtime.h>

namespace ringserve {

inline void CheckCuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
    std::abort();
  }
}

class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) : bytes_(bytes) {
    CheckCuda(cudaMalloc(&data_, bytes > 0 ? bytes : 1), "cudaMalloc");
  }

  template <typename T>
  explicit DeviceMemory(const std::vector<T>& values) : DeviceMemory(values.size() * sizeof(T)) {
    CheckCuda(cudaMemcpy(data_, values.data(), bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
  }

  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}

  DeviceMemory& operator=(DeviceMemory&&) = delete;

  ~DeviceMemory() {
    if (data_ != nullptr) {
      cudaFree(data_);
    }
  }

  template <typename T = std::byte>
  T* as() const {
    return static_cast<T*>(data_);
  }

  size_t bytes() const { return bytes_; }

  void Fill(int value) const { CheckCuda(cudaMemset(data_, value, bytes_), "cudaMemset"); }

  template <typename T>
  std::vector<T> Download() const {
    std::vector<T> values(bytes_ / sizeof(T));
    CheckCuda(cudaMemcpy(values.data(), data_, values.size() * sizeof(T), cudaMemcpyDeviceToHost),
              "cudaMemcpy");
    return values;
  }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

}  // namespace ringserve
