#include "engine/backend/cuda_graph.h"

namespace ringserve {

CudaGraph::~CudaGraph() {
  if (exec_ != nullptr) {
    static_cast<void>(cudaGraphExecDestroy(exec_));
  }
}

absl::Status CudaGraph::Begin(const CudaStream& stream) {
  RETURN_IF_ERROR(FromCuda(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal),
                           "beginning to capture a step"));
  is_capturing_ = true;
  return absl::OkStatus();
}

absl::Status CudaGraph::Launch(const CudaStream& stream) {
  if (!std::exchange(is_capturing_, false)) {
    return absl::OkStatus();
  }
  cudaGraph_t graph = nullptr;
  RETURN_IF_ERROR(FromCuda(cudaStreamEndCapture(stream.get(), &graph), "capturing a step"));
  const absl::Status updated = Update(graph);
  const cudaError_t destroyed = cudaGraphDestroy(graph);
  RETURN_IF_ERROR(updated);
  RETURN_IF_ERROR(FromCuda(destroyed, "a captured step"));
  return FromCuda(cudaGraphLaunch(exec_, stream.get()), "launching a step");
}

absl::Status CudaGraph::Update(cudaGraph_t graph) {
  if (exec_ != nullptr) {
    cudaGraphExecUpdateResultInfo info = {};
    if (cudaGraphExecUpdate(exec_, graph, &info) == cudaSuccess) {
      return absl::OkStatus();
    }
    static_cast<void>(cudaGetLastError());  // another shape: the refusal is no fault
    RETURN_IF_ERROR(FromCuda(cudaGraphExecDestroy(std::exchange(exec_, nullptr)), "a graph"));
  }
  return FromCuda(cudaGraphInstantiate(&exec_, graph, 0), "making a step's graph");
}

}  // namespace ringserve
