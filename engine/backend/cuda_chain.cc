#include "engine/backend/cuda_chain.h"

#include <utility>
#include <variant>

namespace ringserve {
namespace {

std::atomic<bool> is_claimed = false;

int32_t RowsOf(const cuda::ChainOp& op) {
  return std::visit([](const auto& args) { return args.num_rows; }, op);
}

}  // namespace

absl::StatusOr<CudaChain> CudaChain::Create(int32_t device, std::byte* memory) {
  CudaChain chain;
  int32_t is_shared = 0;
  RETURN_IF_ERROR(FromCuda(cudaDeviceGetAttribute(&is_shared, cudaDevAttrMpsEnabled, device),
                           "asking whether processes share the device"));
  if (is_shared != 0 || is_claimed.exchange(true)) {
    return chain;
  }
  chain.claim_.reset(&is_claimed);
  RETURN_IF_ERROR(FromCuda(cuda::FindHopperDevice(device, chain.device_), "looking at the device"));
  if (chain.device_.encode_tensor_map != nullptr) {
    RETURN_IF_ERROR(FromCuda(cuda::FindMaxChainRows(chain.device_, chain.max_rows_),
                             "looking at what runs at a time"));
  }
  chain.memory_ = memory;
  chain.ops_.reserve(cuda::kMaxChainOps);
  return chain;
}

absl::StatusOr<bool> CudaChain::Take(const cuda::ChainOp& op, const CudaStream& stream) {
  if (RowsOf(op) > max_rows_ || cuda::CheckChainOp(op) != nullptr) {
    return false;
  }
  if (ops_.size() == cuda::kMaxChainOps || (!ops_.empty() && RowsOf(ops_.front()) != RowsOf(op))) {
    RETURN_IF_ERROR(Launch(stream));
  }
  ops_.push_back(op);
  return true;
}

absl::Status CudaChain::Launch(const CudaStream& stream) {
  if (ops_.empty()) {
    return absl::OkStatus();
  }
  const cudaError_t error =
      cuda::LaunchChain(device_, ops_, memory_, stream.get(), {.room_bytes = room_bytes_});
  ops_.clear();
  return FromCuda(error, "a chain of products and norms");
}

}  // namespace ringserve
