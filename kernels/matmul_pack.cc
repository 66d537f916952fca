#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "kernels/matmul.h"
#include "kernels/matmul_layout.h"
#include "kernels/thread_pool.h"

namespace ringserve {
namespace {

// Columns that are turned at a time: 64 rows of them fill at most a first-level cache.
constexpr int64_t kStretch = 128;

float Widen(float value) {
  return value;
}

float Widen(Bf16 value) {
  return ToFloat(value);
}

float Widen(F16 value) {
  return ToFloat(value);
}

void Store(float value, float* to) {
  *to = value;
}

void Store(float value, Bf16* to) {
  *to = ToBf16(value);
}

// `count` elements from column `first` of a row, as T. The same type keeps its bits.
template <typename From, typename T>
void Convert(const std::byte* row, int64_t first, int64_t count, T* to) {
  if constexpr (std::is_same_v<From, T>) {
    std::memcpy(to, row + first * sizeof(T), static_cast<size_t>(count) * sizeof(T));
  } else {
    From from[kStretch];  // a row in a file need not be aligned
    std::memcpy(from, row + first * sizeof(From), static_cast<size_t>(count) * sizeof(From));
    for (int64_t i = 0; i < count; ++i) {
      Store(Widen(from[i]), to + i);
    }
  }
}

struct Row {
  const std::byte* data = nullptr;  // null: a row past the last, zeros
  DType dtype = DType::kF32;
};

template <typename T>
void ConvertRow(const Row& row, int64_t first, int64_t count, T* to) {
  std::fill_n(to, kStretch, T{});
  if (row.data == nullptr) {
    return;
  }
  switch (row.dtype) {
    case DType::kF32:
      Convert<float>(row.data, first, count, to);
      break;
    case DType::kBf16:
      Convert<Bf16>(row.data, first, count, to);
      break;
    case DType::kF16:
      Convert<F16>(row.data, first, count, to);
      break;
  }
}

// Turns [row][column] into [column][row], both in 32-bit lanes: a float, or a pair of bf16.
void Turn(const std::byte* from, int64_t row_lanes, int64_t count, std::byte* to) {
  for (int64_t k = 0; k < count; ++k) {
    for (int64_t row = 0; row < kPanelRows; ++row) {
      std::memcpy(to + (k * kPanelRows + row) * 4, from + (row * row_lanes + k) * 4, 4);
    }
  }
}

template <typename T>
void PackPanel(std::span<const Row> rows, int64_t cols, std::byte* to) {
  constexpr int64_t kLaneElements = 4 / sizeof(T);
  T stretch[kPanelRows][kStretch];
  for (int64_t first = 0; first < cols; first += kStretch) {
    const int64_t count = std::min(kStretch, cols - first);
    for (int64_t row = 0; row < kPanelRows; ++row) {
      ConvertRow(rows[static_cast<size_t>(row)], first, count, stretch[row]);
    }
    Turn(reinterpret_cast<const std::byte*>(stretch),
         kStretch / kLaneElements,
         CeilDiv(count, kLaneElements),
         to + first / kLaneElements * kPanelRows * 4);
  }
}

// Where the rows of a panel lie in the parts.
std::array<Row, kPanelRows> PanelRows(std::span<const HostTensor> parts, int64_t panel) {
  std::array<Row, kPanelRows> rows;
  const int64_t first = panel * kPanelRows;
  int64_t part_first = 0;
  for (const HostTensor& part : parts) {
    const int64_t begin = std::max(first, part_first);
    const int64_t end = std::min(first + kPanelRows, part_first + part.rows);
    for (int64_t row = begin; row < end; ++row) {
      rows[static_cast<size_t>(row - first)] = {
          part.data + (row - part_first) * part.cols * DTypeBytes(part.dtype), part.dtype};
    }
    part_first += part.rows;
  }
  return rows;
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
      const std::array<Row, kPanelRows> panel_rows = PanelRows(parts, panel);
      std::byte* panel_to = to + panel * PanelElements(cols, dtype) * DTypeBytes(dtype);
      if (dtype == DType::kBf16) {
        PackPanel<Bf16>(panel_rows, cols, panel_to);
      } else {
        PackPanel<float>(panel_rows, cols, panel_to);
      }
    }
  });
  return {.data = to, .rows = rows, .cols = cols, .dtype = dtype};
}

}  // namespace ringserve
