// A step as one CUDA graph: what is enqueued on a stream between Begin and Launch is captured and
// launched at once, so that the device goes from kernel to kernel without the host. Captured anew
// for every step, which costs the host less than the step takes and lets arguments change; the
// executable graph of a kind of step is updated in place as long as its shape stays.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <cuda_runtime.h>

#include "engine/backend/cuda_resources.h"
#include "engine/base/status.h"

namespace ringserve {

class CudaGraph {
 public:
  CudaGraph() = default;
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  ~CudaGraph();

  // Forgets all kinds.
  void Clear();

  // Steps of one kind run the same kernels with the same launch attributes (updating an executable
  // graph leaves a node's attributes, the size of its clusters among them, as they were). A kind is
  // a number below 2^31.
  absl::Status Begin(const CudaStream& stream, int64_t kind);
  // Without effect if nothing is being captured.
  absl::Status Launch(const CudaStream& stream);

 private:
  struct Executable {
    int64_t kind = -1;
    cudaGraphExec_t graph = nullptr;
  };

  absl::Status Update(cudaGraph_t graph, Executable& executable);
  // That of the kind at hand, or the one to give up for it.
  Executable& Find();

  // A batch changes its size as sequences come and go: making a graph anew takes a millisecond.
  std::array<Executable, 8> executables_;
  size_t next_ = 0;
  int64_t kind_ = 0;
  bool is_capturing_ = false;
};

}  // namespace ringserve
