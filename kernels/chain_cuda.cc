#include "kernels/chain_cuda.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/chain_plan_cuda.h"
#include "kernels/matmul_maps_cuda.h"

namespace ringserve::cuda {
namespace {

DType TypeOf(const ChainOp& op) {
  if (const auto* norm = std::get_if<RmsNormArgs>(&op)) {
    return norm->out_dtype;
  }
  const auto* gated = std::get_if<GatedMatMulArgs>(&op);
  return gated != nullptr ? gated->weight.dtype : std::get<MatMulArgs>(op).weight.dtype;
}

int32_t RowsOf(const ChainOp& op) {
  return std::visit([](const auto& args) { return args.num_rows; }, op);
}

// The tensor maps of op i.
bool Encode(const HopperDevice& device, const ChainOp& op, int32_t i, chain::Params& params) {
  if (std::holds_alternative<RmsNormArgs>(op)) {
    return true;
  }
  const auto* gated = std::get_if<GatedMatMulArgs>(&op);
  const Matrix& weight = gated != nullptr ? gated->weight : std::get<MatMulArgs>(op).weight;
  const void* x = gated != nullptr ? gated->x : std::get<MatMulArgs>(op).x;
  const chain::Op& cut = params.ops[i];
  CUtensorMap& map = params.weight_maps[i];
  return matmul::EncodeRowPanels(device,
                                 weight.dtype,
                                 x,
                                 params.num_rows,
                                 weight.cols,
                                 params.stage_rows / chain::ClusterOf(params.stage_rows),
                                 cut.panels,
                                 params.x_maps[i]) &&
         (gated != nullptr
              ? matmul::EncodeGatedPanels(device, weight, cut.tile_columns, cut.panels, map)
              : matmul::EncodeRowPanels(device,
                                        weight.dtype,
                                        weight.data,
                                        weight.rows,
                                        weight.cols,
                                        cut.tile_columns,
                                        cut.panels,
                                        map));
}

}  // namespace

cudaError_t FindMaxChainRows(const HopperDevice& device, int32_t& rows) {
  int32_t num_pairs = 0;
  const cudaError_t error = chain::FindNumPairs(device.num_sms, num_pairs);
  rows = num_pairs < device.num_sms / chain::kMaxCluster ? 8 : kMaxChainRows;
  return error;
}

const char* CheckChainOp(const ChainOp& op) {
  if (RowsOf(op) < 1 || RowsOf(op) > kMaxChainRows) {
    return "a chain's ops have from 1 to 32 rows";
  }
  if (const auto* norm = std::get_if<RmsNormArgs>(&op)) {
    if (norm->hidden_dim < 4 || norm->hidden_dim % 4 != 0 ||
        norm->hidden_dim > chain::kMaxNormDim) {
      return "hidden_dim of a chain's norm must be a multiple of 4 up to 8192";
    }
    if (norm->scales != nullptr && !CanDeferRmsNorm(norm->hidden_dim, norm->out_dtype)) {
      return "a deferred norm must have a multiple of 64 columns and end in bf16";
    }
    return norm->out_dtype == DType::kF32 ? "a chain's norm must not end in float32" : nullptr;
  }
  const auto* gated = std::get_if<GatedMatMulArgs>(&op);
  const MatMulArgs product =
      gated != nullptr ? MatMulArgs{gated->x, gated->weight, nullptr, gated->num_rows, nullptr}
                       : std::get<MatMulArgs>(op);
  if (product.weight.cols % 64 != 0) {
    return "the columns of a chain's weights must be multiples of 64";
  }
  if (product.bias != nullptr) {
    return "a chain's products add no bias";
  }
  if (gated != nullptr && gated->weight.rows % 16 != 0) {
    return "the rows of a gated weight must be a multiple of 16";
  }
  return CheckMatMulCudaArgs(product);
}

cudaError_t LaunchChain(const HopperDevice& device,
                        std::span<const ChainOp> ops,
                        std::byte* memory,
                        cudaStream_t stream,
                        const ChainTuning& tuning) {
  if (ops.empty() || ops.size() > kMaxChainOps) {
    return cudaErrorInvalidValue;
  }
  for (const ChainOp& op : ops) {
    if (CheckChainOp(op) != nullptr || RowsOf(op) != RowsOf(ops.front()) ||
        TypeOf(op) != TypeOf(ops.front())) {
      return cudaErrorInvalidValue;
    }
  }
  chain::Launch launch = chain::PlanChain(ops, device.num_sms, tuning);
  launch.params.counters = reinterpret_cast<int32_t*>(memory);
  launch.params.squares = reinterpret_cast<float*>(memory + kChainCounterBytes);
  for (int32_t i = 0; i < launch.params.num_ops; ++i) {
    if (!Encode(device, *launch.sources[i], i, launch.params)) {
      return cudaErrorInvalidValue;
    }
  }
  return TypeOf(ops.front()) == DType::kBf16 ? chain::LaunchKernel<__nv_bfloat16>(launch, stream)
                                             : chain::LaunchKernel<__half>(launch, stream);
}

}  // namespace ringserve::cuda
