// Small arrays from pinned host memory to the device by a kernel. A copy of cudaMemcpyAsync queues
// behind every large copy of its direction; this one does not.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

namespace ringserve::cuda {

// bytes: a multiple of 16. `to` is device memory, `from` pinned; both 16-byte aligned.
[[nodiscard]] cudaError_t LaunchFetch(std::byte* to,
                                      const std::byte* from,
                                      int64_t bytes,
                                      cudaStream_t stream);

}  // namespace ringserve::cuda
