// What a CUDA device lends: streams, events and memory, each owned by one move-only value, and CUDA
// errors as statuses. Host code only.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>

#include <cuda_runtime.h>

#include "engine/backend/buffer.h"
#include "engine/base/status.h"

namespace ringserve {

// OK, or INTERNAL saying what failed and how. An error that an earlier kernel left behind is told
// by whichever call meets it first.
absl::Status FromCuda(cudaError_t error, std::string_view what);

// RESOURCE_EXHAUSTED if there is not so much.
absl::StatusOr<Buffer> AllocateDeviceMemory(size_t bytes);
// Page-locked host memory; kernels may read and write it through the same pointer.
absl::StatusOr<Buffer> AllocatePinnedMemory(size_t bytes);

// Owns a stream that does not wait for the default stream. Destroying it waits for nothing.
class CudaStream {
 public:
  static absl::StatusOr<CudaStream> Create();

  CudaStream() = default;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  CudaStream(CudaStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}

  CudaStream& operator=(CudaStream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }

  ~CudaStream();

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Owns an event without timing. Waiting for one that was never recorded returns at once.
class CudaEvent {
 public:
  static absl::StatusOr<CudaEvent> Create();

  CudaEvent() = default;
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  CudaEvent(CudaEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}

  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }

  ~CudaEvent();

  cudaEvent_t get() const { return event_; }

  absl::Status Record(const CudaStream& stream);
  // Blocks until what was recorded has happened.
  absl::Status Await() const;

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace ringserve
