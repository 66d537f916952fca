// Ops of few rows that follow each other in a step, held back until something else is to be
// enqueued and then launched as one kernel (kernels/chain_cuda.h): a step's products and norms
// between two attentions. Engine thread only.
//
// The blocks of a chain wait for each other on the device, so two chains at once could keep each
// other from their multiprocessors for ever. There is one chain at a time in a process, and none
// where processes share the device at the same time (MPS).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/backend/cuda_resources.h"
#include "engine/base/status.h"
#include "kernels/chain_cuda.h"

namespace ringserve {

class CudaChain {
 public:
  // Takes nothing.
  CudaChain() = default;
  // `memory`: cuda::kChainBytes of device memory, its counters zero; it outlives the chain. Takes
  // nothing on a device that has no chains, or if there is another one. When it is destroyed,
  // nothing that it launched may be running.
  static absl::StatusOr<CudaChain> Create(int32_t device, std::byte* memory);

  // Whether the op was taken. If not, Launch comes before whatever is enqueued in its place.
  absl::StatusOr<bool> Take(const cuda::ChainOp& op, const CudaStream& stream);

  // Of shared memory, for a block of the attention that follows (cuda::ChainTuning).
  void LeaveRoom(int32_t bytes) { room_bytes_ = bytes; }

  // Enqueues what was taken.
  absl::Status Launch(const CudaStream& stream);

 private:
  struct Released {
    void operator()(std::atomic<bool>* claim) const { claim->store(false); }
  };

  std::unique_ptr<std::atomic<bool>, Released> claim_;
  cuda::HopperDevice device_;
  std::byte* memory_ = nullptr;
  int32_t max_rows_ = 0;  // none
  int32_t room_bytes_ = 0;
  std::vector<cuda::ChainOp> ops_;
};

}  // namespace ringserve
