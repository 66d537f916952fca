#include <fmt/format.h>

#include "engine/backend/backend_cuda.h"

namespace ringserve {
namespace {

constexpr int32_t kMaxHiddenDim = 16384;  // of a norm's row
constexpr int32_t kMaxExperts = 1024;

}  // namespace

absl::Status CheckCudaModel(const ModelConfig& config, DType dtype) {
  if (dtype == DType::kF32) {
    return absl::InvalidArgumentError(
        "model.dtype: f32 does not run on device \"cuda\", only bf16 and f16; say \"bf16\", or "
        "device \"cpu\"");
  }
  const int32_t head_dim = config.head_dim;
  if (head_dim % 8 != 0 || head_dim > 256) {
    return absl::InvalidArgumentError(
        fmt::format("config.json: head_dim: {} is not a multiple of 8 in [8, 256]", head_dim));
  }
  const int32_t expert_dim = config.moe.num_experts == 0 ? 0 : config.moe.ffn_dim;
  if (config.hidden_dim % 8 != 0 || config.hidden_dim > kMaxHiddenDim) {
    return absl::InvalidArgumentError(
        fmt::format("config.json: hidden_size: {} is not a multiple of 8 in [8, {}], as device "
                    "\"cuda\" needs it",
                    config.hidden_dim,
                    kMaxHiddenDim));
  }
  if (config.ffn_dim % 4 != 0) {
    return absl::InvalidArgumentError(fmt::format(
        "config.json: intermediate_size: {} is not a multiple of 4, as device \"cuda\" needs it",
        config.ffn_dim));
  }
  if (expert_dim % 8 != 0) {
    return absl::InvalidArgumentError(
        fmt::format("config.json: the experts' intermediate size: {} is not a multiple of 8, as "
                    "device \"cuda\" needs it",
                    expert_dim));
  }
  if (config.moe.num_experts > kMaxExperts) {
    return absl::InvalidArgumentError(
        fmt::format("config.json: {} experts are more than the {} that run on device \"cuda\"",
                    config.moe.num_experts,
                    kMaxExperts));
  }
  return absl::OkStatus();
}

}  // namespace ringserve
