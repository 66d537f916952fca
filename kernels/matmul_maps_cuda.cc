#include "kernels/matmul_maps_cuda.h"

namespace ringserve::cuda::matmul {
namespace {

using EncodeTensorMap = decltype(&cuTensorMapEncodeTiled);

constexpr cuuint32_t kPanelColumns = 64;

// Boxes are 64 columns of some rows, laid out in shared memory with the 128-byte swizzle. Reading
// ahead more than a box's 128 bytes costs: 4096 -> 28672 for one row at 4.18 TB/s, not 4.29.
bool Encode(const HopperDevice& device,
            DType dtype,
            const void* data,
            uint32_t rank,
            const cuuint64_t* sizes,
            const cuuint64_t* strides,
            const cuuint32_t* box,
            CUtensorMap& map) {
  const auto encode = reinterpret_cast<EncodeTensorMap>(device.encode_tensor_map);
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  return encode(&map,
                dtype == DType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                      : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                rank,
                const_cast<void*>(data),
                sizes,
                strides,
                box,
                steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

bool EncodeRows(const HopperDevice& device,
                DType dtype,
                const void* data,
                int64_t num_rows,
                int64_t cols,
                int32_t box_rows,
                CUtensorMap& map) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(num_rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(cols * 2)};
  const cuuint32_t box[2] = {kPanelColumns, static_cast<cuuint32_t>(box_rows)};
  return Encode(device, dtype, data, 2, sizes, strides, box, map);
}

bool EncodeGated(const HopperDevice& device,
                 const Matrix& weight,
                 int32_t box_rows,
                 CUtensorMap& map) {
  const auto row_bytes = static_cast<cuuint64_t>(weight.cols * 2);
  const auto features = static_cast<cuuint64_t>(weight.rows / 2);
  const cuuint64_t sizes[4] = {static_cast<cuuint64_t>(weight.cols), 8, 2, features / 8};
  const cuuint64_t strides[3] = {row_bytes, features * row_bytes, 8 * row_bytes};
  const cuuint32_t box[4] = {kPanelColumns, 8, 2, static_cast<cuuint32_t>(box_rows / 16)};
  return Encode(device, weight.dtype, weight.data, 4, sizes, strides, box, map);
}

bool EncodeRowPanels(const HopperDevice& device,
                     DType dtype,
                     const void* data,
                     int64_t num_rows,
                     int64_t cols,
                     int32_t box_rows,
                     int32_t panels,
                     CUtensorMap& map) {
  const auto row_bytes = static_cast<cuuint64_t>(cols * 2);
  const cuuint64_t sizes[3] = {kPanelColumns,
                               static_cast<cuuint64_t>(num_rows),
                               static_cast<cuuint64_t>(cols) / kPanelColumns};
  const cuuint64_t strides[2] = {row_bytes, 2 * kPanelColumns};
  const cuuint32_t box[3] = {
      kPanelColumns, static_cast<cuuint32_t>(box_rows), static_cast<cuuint32_t>(panels)};
  return Encode(device, dtype, data, 3, sizes, strides, box, map);
}

bool EncodeGatedPanels(const HopperDevice& device,
                       const Matrix& weight,
                       int32_t box_rows,
                       int32_t panels,
                       CUtensorMap& map) {
  const auto row_bytes = static_cast<cuuint64_t>(weight.cols * 2);
  const auto features = static_cast<cuuint64_t>(weight.rows / 2);
  const cuuint64_t sizes[5] = {
      kPanelColumns, 8, 2, features / 8, static_cast<cuuint64_t>(weight.cols) / kPanelColumns};
  const cuuint64_t strides[4] = {row_bytes, features * row_bytes, 8 * row_bytes, 2 * kPanelColumns};
  const cuuint32_t box[5] = {
      kPanelColumns, 8, 2, static_cast<cuuint32_t>(box_rows / 16), static_cast<cuuint32_t>(panels)};
  return Encode(device, weight.dtype, weight.data, 5, sizes, strides, box, map);
}

}  // namespace ringserve::cuda::matmul
