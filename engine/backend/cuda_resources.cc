#include "engine/backend/cuda_resources.h"

#include <algorithm>

#include <fmt/format.h>

namespace ringserve {
namespace {

// Destructors have nobody to tell, and after a fault every call fails.
void FreeDevice(std::byte* data, size_t /*size*/) {
  static_cast<void>(cudaFree(data));
}

void FreePinned(std::byte* data, size_t /*size*/) {
  static_cast<void>(cudaFreeHost(data));
}

absl::Status NoMemory(size_t bytes, std::string_view kind, cudaError_t error) {
  static_cast<void>(cudaGetLastError());  // or the next launch would report it
  return absl::ResourceExhaustedError(
      fmt::format("{} bytes of {} memory: {}", bytes, kind, cudaGetErrorString(error)));
}

}  // namespace

absl::Status FromCuda(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) {
    return absl::OkStatus();
  }
  return absl::InternalError(fmt::format(
      "{}: CUDA error {} ({})", what, cudaGetErrorName(error), cudaGetErrorString(error)));
}

absl::StatusOr<Buffer> AllocateDeviceMemory(size_t bytes) {
  void* data = nullptr;
  const size_t size = std::max<size_t>(bytes, 1);
  if (const cudaError_t error = cudaMalloc(&data, size); error != cudaSuccess) {
    return NoMemory(size, "device", error);
  }
  return Buffer(static_cast<std::byte*>(data), size, &FreeDevice);
}

absl::StatusOr<Buffer> AllocatePinnedMemory(size_t bytes) {
  void* data = nullptr;
  const size_t size = std::max<size_t>(bytes, 1);
  if (const cudaError_t error = cudaHostAlloc(&data, size, cudaHostAllocDefault);
      error != cudaSuccess) {
    return NoMemory(size, "pinned", error);
  }
  return Buffer(static_cast<std::byte*>(data), size, &FreePinned);
}

absl::StatusOr<CudaStream> CudaStream::Create() {
  CudaStream stream;
  RETURN_IF_ERROR(FromCuda(cudaStreamCreateWithFlags(&stream.stream_, cudaStreamNonBlocking),
                           "creating a stream"));
  return stream;
}

CudaStream::~CudaStream() {
  if (stream_ != nullptr) {
    static_cast<void>(cudaStreamDestroy(stream_));
  }
}

absl::StatusOr<CudaEvent> CudaEvent::Create() {
  CudaEvent event;
  RETURN_IF_ERROR(FromCuda(cudaEventCreateWithFlags(&event.event_, cudaEventDisableTiming),
                           "creating an event"));
  return event;
}

CudaEvent::~CudaEvent() {
  if (event_ != nullptr) {
    static_cast<void>(cudaEventDestroy(event_));
  }
}

absl::Status CudaEvent::Record(const CudaStream& stream) {
  return FromCuda(cudaEventRecord(event_, stream.get()), "recording an event");
}

absl::Status CudaEvent::Await() const {
  return FromCuda(cudaEventSynchronize(event_), "a step");
}

}  // namespace ringserve
