// A step as one CUDA graph: what is enqueued on a stream between Begin and Launch is captured and
// launched at once, so that the device goes from kernel to kernel without the host. Captured anew
// for every step, which costs the host less than the step takes and lets arguments change; the
// executable graph is updated in place as long as its shape stays.
#pragma once

#include <utility>

#include <cuda_runtime.h>

#include "engine/backend/cuda_resources.h"
#include "engine/base/status.h"

namespace ringserve {

class CudaGraph {
 public:
  CudaGraph() = default;

  CudaGraph(CudaGraph&& other) noexcept
      : exec_(std::exchange(other.exec_, nullptr)),
        is_capturing_(std::exchange(other.is_capturing_, false)) {}

  CudaGraph& operator=(CudaGraph&& other) noexcept {
    std::swap(exec_, other.exec_);
    std::swap(is_capturing_, other.is_capturing_);
    return *this;
  }

  ~CudaGraph();

  bool is_capturing() const { return is_capturing_; }

  absl::Status Begin(const CudaStream& stream);
  // Without effect if nothing is being captured.
  absl::Status Launch(const CudaStream& stream);

 private:
  absl::Status Update(cudaGraph_t graph);

  cudaGraphExec_t exec_ = nullptr;
  bool is_capturing_ = false;
};

}  // namespace ringserve
