#include "kernels/matmul_hopper_cuda.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/matmul_maps_cuda.h"

namespace ringserve::cuda {
namespace {

using matmul::HopperLaunch;

template <typename T, int32_t kGroups, bool kGated>
cudaError_t LaunchColumns(const HopperLaunch& launch, int32_t columns, cudaStream_t stream) {
  if constexpr (kGroups > 1) {
    switch (columns) {
      case 96:
        return matmul::LaunchHopper<T, 96, kGroups, kGated>(launch, stream);
      case 192:
        return matmul::LaunchHopper<T, 192, kGroups, kGated>(launch, stream);
      case 224:
        return matmul::LaunchHopper<T, 224, kGroups, kGated>(launch, stream);
      default:
        break;
    }
  }
  switch (columns) {
    case 32:
      return matmul::LaunchHopper<T, 32, kGroups, kGated>(launch, stream);
    case 64:
      return matmul::LaunchHopper<T, 64, kGroups, kGated>(launch, stream);
    case 128:
      return matmul::LaunchHopper<T, 128, kGroups, kGated>(launch, stream);
    case 256:
      return matmul::LaunchHopper<T, 256, kGroups, kGated>(launch, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <typename T, bool kGated>
cudaError_t LaunchRows(const HopperLaunch& launch, cudaStream_t stream) {
  switch (launch.params.x_rows) {
    case 8:
      return matmul::LaunchRows<T, 1, kGated>(launch, stream);
    case 16:
      return matmul::LaunchRows<T, 2, kGated>(launch, stream);
    case 32:
      return matmul::LaunchRows<T, 4, kGated>(launch, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <typename T, bool kGated>
cudaError_t LaunchPlan(const matmul::HopperPlan& plan,
                       const HopperLaunch& launch,
                       cudaStream_t stream) {
  if (plan.by_rows) {
    return LaunchRows<T, kGated>(launch, stream);
  }
  return plan.groups == 1 ? LaunchColumns<T, 1, kGated>(launch, plan.columns, stream)
                          : LaunchColumns<T, 2, kGated>(launch, plan.columns, stream);
}

template <bool kGated>
cudaError_t Launch(const HopperDevice& device,
                   const GatedMatMulArgs& args,
                   const matmul::HopperTuning& tuning,
                   cudaStream_t stream) {
  const Matrix& weight = args.weight;
  const matmul::HopperPlan plan =
      matmul::PlanHopper({.num_rows = args.num_rows,
                          .num_columns = static_cast<int32_t>(weight.rows),
                          .cols = static_cast<int32_t>(weight.cols),
                          .gated = kGated},
                         device.num_sms,
                         tuning);
  HopperLaunch launch = {.x_map = {},
                         .weight_map = {},
                         .params = plan.params,
                         .grid = plan.grid,
                         .shared_bytes = plan.shared_bytes};
  launch.params.out = args.out;
  launch.params.row_scales = args.row_scales;
  const int32_t x_rows = plan.params.x_rows / plan.params.cluster;
  const int32_t columns = plan.params.tile_columns;
  const bool encoded =
      matmul::EncodeRows(
          device, weight.dtype, args.x, args.num_rows, weight.cols, x_rows, launch.x_map) &&
      (kGated ? matmul::EncodeGated(device, weight, columns, launch.weight_map)
              : matmul::EncodeRows(device,
                                   weight.dtype,
                                   weight.data,
                                   weight.rows,
                                   weight.cols,
                                   columns,
                                   launch.weight_map));
  if (!encoded) {
    return cudaErrorInvalidValue;
  }
  return weight.dtype == DType::kBf16 ? LaunchPlan<__nv_bfloat16, kGated>(plan, launch, stream)
                                      : LaunchPlan<__half, kGated>(plan, launch, stream);
}

}  // namespace

cudaError_t FindHopperDevice(int32_t device, HopperDevice& found) {
  int32_t major = 0;
  int32_t minor = 0;
  for (const auto& [attribute, value] : {std::pair{cudaDevAttrMultiProcessorCount, &found.num_sms},
                                         std::pair{cudaDevAttrComputeCapabilityMajor, &major},
                                         std::pair{cudaDevAttrComputeCapabilityMinor, &minor}}) {
    if (const cudaError_t error = cudaDeviceGetAttribute(value, attribute, device);
        error != cudaSuccess) {
      return error;
    }
  }
  if (major != 9 || minor != 0) {  // sm_90a code runs nowhere else
    return cudaSuccess;
  }
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(
      "cuTensorMapEncodeTiled", &found.encode_tensor_map, 12000, cudaEnableDefault, &result);
  return error == cudaSuccess && result != cudaDriverEntryPointSuccess ? cudaErrorUnknown : error;
}

cudaError_t LaunchHopperMatMul(const HopperDevice& device,
                               const MatMulArgs& args,
                               cudaStream_t stream,
                               const matmul::HopperTuning& tuning) {
  return Launch<false>(
      device, {args.x, args.weight, args.out, args.num_rows, args.row_scales}, tuning, stream);
}

cudaError_t LaunchHopperGatedMatMul(const HopperDevice& device,
                                    const GatedMatMulArgs& args,
                                    cudaStream_t stream,
                                    const matmul::HopperTuning& tuning) {
  return Launch<true>(device, args, tuning, stream);
}

}  // namespace ringserve::cuda
