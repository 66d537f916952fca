#include <algorithm>

#include "kernels/cuda_util.cuh"
#include "kernels/matmul_cuda.h"
#include "kernels/matmul_hopper_cuda.h"

namespace ringserve::cuda {
namespace {

// A block computes kTile x kTile results with four warps, each 16 rows by kTile columns, in slabs
// of kSlab along k.
constexpr int32_t kTile = 64;
constexpr int32_t kSlab = kPanelColumns;
constexpr int32_t kThreads = 128;

struct Params {
  const std::byte* x;
  const std::byte* weight;
  float* out;
  const float* row_scales;
  int32_t num_rows;
  int32_t num_features;
  int32_t cols;
};

// Rows [first, first + kTile) of a row-major matrix, columns [k, k + kSlab); zeros past its ends.
// Pieces of kPiece elements: 8, or 2 where rows do not begin at multiples of 16 bytes.
template <int32_t kPiece>
__device__ void LoadSlab(uint32_t to,
                         const std::byte* matrix,
                         int32_t first,
                         int32_t num_rows,
                         int32_t cols,
                         int32_t k) {
  constexpr int32_t kPieces = kSlab / kPiece;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kTile * kPieces; i += kThreads) {
    const int32_t row = i / kPieces;
    const int32_t column = i % kPieces * kPiece;
    const bool valid = first + row < num_rows && k + column < cols;
    const int64_t at = (int64_t{first} + row) * cols + k + column;
    const std::byte* from = matrix + (valid ? 2 * at : 0);
    const uint32_t place = to + PanelOffset(row, column / 8) + column % 8 * 2;
    if constexpr (kPiece == 8) {
      CopyAsync16(place, from, valid);
    } else {
      CopyAsync4(place, from, valid);
    }
  }
}

template <typename T, int32_t kPiece>
__global__ void __launch_bounds__(kThreads) MatMulKernel(const Params params) {
  __shared__ alignas(1024) std::byte shared[2][2][kTile * kPanelRowBytes];
  const auto warp = static_cast<int32_t>(threadIdx.x) / 32;
  const auto lane = static_cast<int32_t>(threadIdx.x) % 32;
  const int32_t first_feature = static_cast<int32_t>(blockIdx.x) * kTile;
  const int32_t first_row = static_cast<int32_t>(blockIdx.y) * kTile;
  float sums[kTile / 8][4] = {};
  const auto load = [&](int32_t stage, int32_t k) {
    LoadSlab<kPiece>(
        SharedAddress(shared[stage][0]), params.x, first_row, params.num_rows, params.cols, k);
    LoadSlab<kPiece>(SharedAddress(shared[stage][1]),
                     params.weight,
                     first_feature,
                     params.num_features,
                     params.cols,
                     k);
    CommitCopies();
  };
  load(0, 0);
  for (int32_t k = 0, stage = 0; k < params.cols; k += kSlab, stage ^= 1) {
    if (k + kSlab < params.cols) {
      load(stage ^ 1, k + kSlab);
      WaitCopies<1>();
    } else {
      WaitCopies<0>();
    }
    __syncthreads();
    const uint32_t x = SharedAddress(shared[stage][0]);
    const uint32_t weight = SharedAddress(shared[stage][1]);
#pragma unroll
    for (int32_t step = 0; step < kSlab / 16; ++step) {
      uint32_t a[4];
      LoadMatrix4(a, x + PanelOffset(warp * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
      for (int32_t pair = 0; pair < kTile / 16; ++pair) {
        uint32_t b[4];
        LoadMatrix4(
            b, weight + PanelOffset(pair * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
        MatrixProduct<T>(sums[2 * pair], a, b[0], b[1]);
        MatrixProduct<T>(sums[2 * pair + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();
  }
  for (int32_t tile = 0; tile < kTile / 8; ++tile) {
    for (int32_t i = 0; i < 4; ++i) {
      const int32_t row = first_row + warp * 16 + lane / 4 + i / 2 * 8;
      const int32_t feature = first_feature + tile * 8 + lane % 4 * 2 + i % 2;
      if (row < params.num_rows && feature < params.num_features) {
        // A zero is positive, as it is where zeros past K are added.
        params.out[int64_t{row} * params.num_features + feature] =
            (sums[tile][i] + 0.0F) * RowScale(params.row_scales, row);
      }
    }
  }
}

cudaError_t LaunchPlain(const MatMulArgs& args, cudaStream_t stream) {
  const Params params = {.x = static_cast<const std::byte*>(args.x),
                         .weight = args.weight.data,
                         .out = args.out,
                         .row_scales = args.row_scales,
                         .num_rows = args.num_rows,
                         .num_features = static_cast<int32_t>(args.weight.rows),
                         .cols = static_cast<int32_t>(args.weight.cols)};
  const dim3 grid(static_cast<unsigned>(CeilDiv(params.num_features, kTile)),
                  static_cast<unsigned>(CeilDiv(params.num_rows, kTile)));
  const auto launch = [&](auto kernel) {
    kernel<<<grid, kThreads, 0, stream>>>(params);
    return cudaGetLastError();
  };
  const bool is_bf16 = args.weight.dtype == DType::kBf16;
  if (params.cols % 8 == 0) {
    return launch(is_bf16 ? MatMulKernel<__nv_bfloat16, 8> : MatMulKernel<__half, 8>);
  }
  return launch(is_bf16 ? MatMulKernel<__nv_bfloat16, 2> : MatMulKernel<__half, 2>);
}

class PlainMatMul final : public MatMulDevice {
 public:
  cudaError_t Launch(const MatMulArgs& args, cudaStream_t stream) override {
    if (CheckMatMulCudaArgs(args) != nullptr) {
      return cudaErrorInvalidValue;
    }
    return args.num_rows == 0 ? cudaSuccess : LaunchPlain(args, stream);
  }
};

class HopperMatMul final : public MatMulDevice {
 public:
  explicit HopperMatMul(const HopperDevice& device) : device_(device) {}

  cudaError_t Launch(const MatMulArgs& args, cudaStream_t stream) override {
    if (CheckMatMulCudaArgs(args) != nullptr) {
      return cudaErrorInvalidValue;
    }
    if (args.num_rows == 0) {
      return cudaSuccess;
    }
    return args.weight.cols % 8 == 0 ? LaunchHopperMatMul(device_, args, stream)
                                     : LaunchPlain(args, stream);
  }

  bool has_gated() const override { return true; }

  cudaError_t LaunchGated(const GatedMatMulArgs& args, cudaStream_t stream) override {
    if (CheckMatMulCudaArgs({args.x, args.weight, nullptr, args.num_rows, nullptr}) != nullptr ||
        args.weight.rows % 16 != 0 || args.weight.cols % 8 != 0) {
      return cudaErrorInvalidValue;
    }
    return args.num_rows == 0 ? cudaSuccess : LaunchHopperGatedMatMul(device_, args, stream);
  }

 private:
  HopperDevice device_;
};

}  // namespace

const char* CheckMatMulCudaArgs(const MatMulArgs& args) {
  if (args.weight.dtype == DType::kF32) {
    return "weights must be bf16 or f16";
  }
  if (args.weight.cols < 2 || args.weight.cols % 2 != 0) {
    return "the columns of a weight must be even";
  }
  if (args.weight.rows < 1 || args.weight.rows > (int64_t{1} << 30) ||
      args.weight.cols > (int64_t{1} << 30)) {
    return "a weight must have from 1 to 2^30 rows and columns";
  }
  if (args.num_rows < 0) {
    return "num_rows must not be negative";
  }
  if (args.bias != nullptr) {
    return "products on CUDA add no bias";
  }
  return nullptr;
}

size_t MatMulDevice::WorkspaceBytes() {
  return 0;
}

cudaError_t MatMulDevice::Create(int32_t device,
                                 std::byte* /*workspace*/,
                                 std::unique_ptr<MatMulDevice>& made,
                                 MatMulKernels kernels) {
  HopperDevice hopper;
  const cudaError_t error = FindHopperDevice(device, hopper);
  if (error != cudaSuccess) {
    return error;
  }
  if (kernels == MatMulKernels::kBest && hopper.encode_tensor_map != nullptr) {
    made = std::make_unique<HopperMatMul>(hopper);
  } else {
    made = std::make_unique<PlainMatMul>();
  }
  return cudaSuccess;
}

}  // namespace ringserve::cuda
