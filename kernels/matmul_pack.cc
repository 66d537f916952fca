#include <algorithm>
#include <cstring>

#include "kernels/matmul.h"
#include "kernels/matmul_layout.h"
#include "kernels/thread_pool.h"

namespace ringserve {
namespace {

float LoadFloat(const std::byte* data, int64_t index, DType dtype) {
  if (dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, data + index * 4, 4);
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, data + index * 2, 2);
  return dtype == DType::kBf16 ? ToFloat(Bf16{bits}) : ToFloat(F16{bits});
}

void Store(float value, float* to) {
  *to = value;
}

void Store(float value, Bf16* to) {
  *to = ToBf16(value);
}

// One row of a part to its lane of the panel; bf16 to bf16 keeps the bits.
template <typename T>
void PackRow(const HostTensor& part, int64_t part_row, int64_t row, DType dtype, T* to) {
  const int64_t cols = part.cols;
  for (int64_t col = 0; col < cols; ++col) {
    T* element = to + PackedIndex(row, col, cols, dtype);
    Store(LoadFloat(part.data, part_row * cols + col, part.dtype), element);
  }
}

template <typename T>
void PackPanel(std::span<const HostTensor> parts, int64_t panel, int64_t cols, DType dtype, T* to) {
  const int64_t first = panel * kPanelRows;
  std::fill_n(
      to + first / kPanelRows * PanelElements(cols, dtype), PanelElements(cols, dtype), T{});
  int64_t part_first = 0;
  for (const HostTensor& part : parts) {
    const int64_t begin = std::max(first, part_first);
    const int64_t end = std::min(first + kPanelRows, part_first + part.rows);
    for (int64_t row = begin; row < end; ++row) {
      PackRow(part, row - part_first, row, dtype, to);
    }
    part_first += part.rows;
  }
}

}  // namespace

size_t PackedMatrixBytes(int64_t rows, int64_t cols, DType dtype) {
  return static_cast<size_t>(CeilDiv(rows, kPanelRows) * PanelElements(cols, dtype) *
                             DTypeBytes(dtype));
}

Matrix PackMatrixCpu(std::span<const HostTensor> parts,
                     DType dtype,
                     std::byte* to,
                     ThreadPool& pool) {
  int64_t rows = 0;
  for (const HostTensor& part : parts) {
    rows += part.rows;
  }
  const int64_t cols = parts.front().cols;
  pool.ParallelFor(CeilDiv(rows, kPanelRows), 1, [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel) {
      if (dtype == DType::kBf16) {
        PackPanel(parts, panel, cols, dtype, reinterpret_cast<Bf16*>(to));
      } else {
        PackPanel(parts, panel, cols, dtype, reinterpret_cast<float*>(to));
      }
    }
  });
  return {.data = to, .rows = rows, .cols = cols, .dtype = dtype};
}

}  // namespace ringserve
