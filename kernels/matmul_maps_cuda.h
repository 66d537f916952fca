// Tensor maps of the operands of the sm_90a matrix products.
#pragma once

#include <cstdint>

#include <cuda.h>

#include "kernels/matmul_hopper_cuda.h"

namespace ringserve::cuda::matmul {

// Boxes of 64 columns by `box_rows` rows of a row-major [num_rows, cols] matrix; what lies past its
// ends counts as zeros. False if the driver refuses.
bool EncodeRows(const HopperDevice& device,
                DType dtype,
                const void* data,
                int64_t num_rows,
                int64_t cols,
                int32_t box_rows,
                CUtensorMap& map);

// The same of weight = [G; U], `box_rows` (a multiple of 16) taken in turns: eight rows of the
// gate, eight of the up projection, and so on.
bool EncodeGated(const HopperDevice& device,
                 const Matrix& weight,
                 int32_t box_rows,
                 CUtensorMap& map);

// The same with boxes of `panels` times 64 columns, one after the other: cols is a multiple of 64.
bool EncodeRowPanels(const HopperDevice& device,
                     DType dtype,
                     const void* data,
                     int64_t num_rows,
                     int64_t cols,
                     int32_t box_rows,
                     int32_t panels,
                     CUtensorMap& map);
bool EncodeGatedPanels(const HopperDevice& device,
                       const Matrix& weight,
                       int32_t box_rows,
                       int32_t panels,
                       CUtensorMap& map);

}  // namespace ringserve::cuda::matmul
