#include <algorithm>

#include "kernels/matmul.h"
#include "kernels/matmul_layout.h"
#include "kernels/thread_pool.h"

namespace ringserve {
namespace {

float Widen(float value) {
  return value;
}

float Widen(Bf16 value) {
  return ToFloat(value);
}

// One row of x by one panel.
template <typename Element>
void MultiplyPanel(const MatMulArgs& args, int64_t row, int64_t panel) {
  const int64_t cols = args.weight.cols;
  const DType dtype = args.weight.dtype;
  const auto* x = static_cast<const Element*>(args.x) + row * cols;
  const auto* weight =
      reinterpret_cast<const Element*>(args.weight.data) + panel * PanelElements(cols, dtype);
  float sums[kPanelRows] = {};
  for (int64_t k = 0; k < cols; ++k) {
    const float factor = Widen(x[k]);
    const int64_t step = PackedIndex(1, 0, cols, dtype);
    const Element* column = weight + PackedIndex(0, k, cols, dtype);
    for (int64_t lane = 0; lane < kPanelRows; ++lane) {
      sums[lane] += factor * Widen(column[lane * step]);
    }
  }
  const int64_t first = panel * kPanelRows;
  std::copy_n(sums,
              std::min(kPanelRows, args.weight.rows - first),
              args.out + row * args.weight.rows + first);
}

}  // namespace

void MatMulCpu(const MatMulArgs& args, ThreadPool& pool) {
  pool.ParallelFor(CeilDiv(args.weight.rows, kPanelRows), 1, [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel) {
      for (int64_t row = 0; row < args.num_rows; ++row) {
        if (args.weight.dtype == DType::kBf16) {
          MultiplyPanel<Bf16>(args, row, panel);
        } else {
          MultiplyPanel<float>(args, row, panel);
        }
      }
    }
  });
}

}  // namespace ringserve
