#include "engine/backend/cuda_graph.h"

#include <algorithm>

namespace ringserve {

CudaGraph::~CudaGraph() {
  Clear();
}

void CudaGraph::Clear() {
  for (Executable& executable : executables_) {
    if (executable.graph != nullptr) {
      static_cast<void>(cudaGraphExecDestroy(std::exchange(executable.graph, nullptr)));
    }
  }
}

absl::Status CudaGraph::Begin(const CudaStream& stream, int64_t kind) {
  // Relaxed: what this thread or another asks or allocates meanwhile is no part of the step.
  RETURN_IF_ERROR(FromCuda(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed),
                           "beginning to capture a step"));
  is_capturing_ = true;
  kind_ = kind;
  return absl::OkStatus();
}

absl::Status CudaGraph::Launch(const CudaStream& stream) {
  if (!std::exchange(is_capturing_, false)) {
    return absl::OkStatus();
  }
  cudaGraph_t graph = nullptr;
  RETURN_IF_ERROR(FromCuda(cudaStreamEndCapture(stream.get(), &graph), "capturing a step"));
  // Steps of one kind may differ in a kernel or two: in whether partial results are merged, in who
  // samples.
  size_t num_nodes = 0;
  RETURN_IF_ERROR(FromCuda(cudaGraphGetNodes(graph, nullptr, &num_nodes), "a captured step"));
  kind_ = kind_ << 32 | static_cast<int64_t>(num_nodes);
  Executable& executable = Find();
  const absl::Status updated = Update(graph, executable);
  const cudaError_t destroyed = cudaGraphDestroy(graph);
  RETURN_IF_ERROR(updated);
  RETURN_IF_ERROR(FromCuda(destroyed, "a captured step"));
  return FromCuda(cudaGraphLaunch(executable.graph, stream.get()), "launching a step");
}

CudaGraph::Executable& CudaGraph::Find() {
  const auto found =
      std::find_if(executables_.begin(), executables_.end(), [this](const Executable& executable) {
        return executable.graph != nullptr && executable.kind == kind_;
      });
  if (found != executables_.end()) {
    return *found;
  }
  Executable& oldest = executables_[next_];
  next_ = (next_ + 1) % executables_.size();
  return oldest;
}

absl::Status CudaGraph::Update(cudaGraph_t graph, Executable& executable) {
  if (executable.graph != nullptr && executable.kind == kind_) {
    cudaGraphExecUpdateResultInfo info = {};
    if (cudaGraphExecUpdate(executable.graph, graph, &info) == cudaSuccess) {
      return absl::OkStatus();
    }
    static_cast<void>(cudaGetLastError());  // another shape: the refusal is no fault
  }
  if (executable.graph != nullptr) {
    RETURN_IF_ERROR(FromCuda(cudaGraphExecDestroy(std::exchange(executable.graph, nullptr)),
                             "giving up a graph"));
  }
  executable.kind = kind_;
  return FromCuda(cudaGraphInstantiate(&executable.graph, graph, 0), "making a step's graph");
}

}  // namespace ringserve
