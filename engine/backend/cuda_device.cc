#include "engine/backend/cuda_device.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include "engine/backend/cuda_resources.h"

namespace ringserve {
namespace {

constexpr int kOldestMajor = 8;  // bf16 tensor cores and asynchronous copies

std::string VersionName(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

double Gibibytes(size_t bytes) {
  return static_cast<double>(bytes) / (1 << 30);
}

}  // namespace

absl::Status CheckCudaDevice(
    int driver_version, int needed_version, int num_devices, int major, int minor) {
  if (driver_version == 0) {
    return absl::FailedPreconditionError("this machine has no NVIDIA driver");
  }
  // A driver serves every runtime of its major version.
  if (driver_version / 1000 < needed_version / 1000) {
    return absl::FailedPreconditionError(
        fmt::format("the NVIDIA driver is too old: it serves CUDA {}, this build needs {}.0",
                    VersionName(driver_version),
                    needed_version / 1000));
  }
  if (num_devices == 0) {
    return absl::FailedPreconditionError(
        "CUDA shows no device (is there a GPU, and does CUDA_VISIBLE_DEVICES name it?)");
  }
  if (major < kOldestMajor) {
    return absl::FailedPreconditionError(
        fmt::format("the GPU has compute capability {}.{}; the kernels need {}.0 or later",
                    major,
                    minor,
                    kOldestMajor));
  }
  return absl::OkStatus();
}

absl::Status CheckDeviceMemory(size_t wanted, size_t free, size_t total) {
  if (wanted <= free) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      fmt::format("the plan needs {} bytes ({:.1f} GiB) of device memory, but of the GPU's {} "
                  "({:.1f} GiB) only {} ({:.1f} GiB) are free",
                  wanted,
                  Gibibytes(wanted),
                  total,
                  Gibibytes(total),
                  free,
                  Gibibytes(free)));
}

absl::StatusOr<CudaDevice> FindCudaDevice() {
  int driver_version = 0;
  int num_devices = 0;
  // Neither call needs a device, and both answer 0 where there is none.
  static_cast<void>(cudaDriverGetVersion(&driver_version));
  const cudaError_t counted = cudaGetDeviceCount(&num_devices);
  if (counted != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    num_devices = 0;
  }
  // What CheckCudaDevice has no sentence for.
  if (counted != cudaSuccess && counted != cudaErrorNoDevice &&
      counted != cudaErrorInsufficientDriver) {
    return absl::FailedPreconditionError(
        fmt::format("CUDA does not start: {}", cudaGetErrorString(counted)));
  }
  CudaDevice device;
  if (num_devices > 0) {
    cudaDeviceProp properties = {};
    RETURN_IF_ERROR(FromCuda(cudaGetDeviceProperties(&properties, device.index), "the GPU"));
    device.name = properties.name;
    device.major = properties.major;
    device.minor = properties.minor;
    device.num_multiprocessors = properties.multiProcessorCount;
  }
  RETURN_IF_ERROR(
      CheckCudaDevice(driver_version, CUDART_VERSION, num_devices, device.major, device.minor));
  RETURN_IF_ERROR(FromCuda(cudaSetDevice(device.index), "choosing the GPU"));
  RETURN_IF_ERROR(
      FromCuda(cuda::FindAttentionDevice(device.index, device.attention), "asking the GPU"));
  return device;
}

}  // namespace ringserve
