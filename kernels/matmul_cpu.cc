#include <algorithm>

#include "kernels/cpu_features.h"
#include "kernels/matmul_kernel.h"
#include "kernels/matmul_layout.h"
#include "kernels/thread_pool.h"

namespace ringserve {
namespace {

// Rows of x that go by a panel while it is in the caches. More rows would read the weight less
// often, fewer would keep x closer; between 256 and 1024 neither is seen.
constexpr int64_t kMaxRowBlock = 768;

// Fewer panels than this for each thread are cut into slices, so that the last pieces to end are a
// small part of the whole.
constexpr int64_t kPanelsPerThread = 8;

// Below this many bytes of weight, times rows, a piece costs less than handing it out.
constexpr int64_t kMinPieceWork = 65536;

constexpr int64_t kPanelSlices = kPanelRows / kMatMulSlice;

// Slices in a piece: a part of a panel, or whole panels.
int64_t SlicesPerPiece(const MatMulArgs& args, int64_t num_panels, int64_t rows, int32_t threads) {
  const int64_t slice_work =
      std::max<int64_t>(1, kMatMulSlice * args.weight.cols * DTypeBytes(args.weight.dtype) * rows);
  const int64_t least = CeilDiv(kMinPieceWork, slice_work);
  if (least == 1 && num_panels < kPanelsPerThread * threads) {
    return 1;
  }
  return RoundUp(least, kPanelSlices);
}

// While the block is in the caches.
void AddBias(const MatMulArgs& args, const MatMulBlock& block) {
  if (args.bias == nullptr) {
    return;
  }
  const float* bias = args.bias + block.first_output;
  for (int64_t row = block.first_row; row < block.first_row + block.num_rows; ++row) {
    float* out = args.out + row * args.weight.rows + block.first_output;
    for (int64_t i = 0; i < block.num_outputs; ++i) {
      out[i] += bias[i];
    }
  }
}

}  // namespace

MatMulKernel ChooseMatMulKernel(DType dtype) {
  static const bool has_bf16_dot = HasBf16Dot();
  return dtype == DType::kBf16 && has_bf16_dot ? MatMulKernelBf16Dot : MatMulKernelFloat;
}

void MatMulWith(MatMulKernel kernel, const MatMulArgs& args, ThreadPool& pool) {
  if (args.num_rows <= 0) {
    return;
  }
  const Matrix& weight = args.weight;
  const int64_t row_blocks = CeilDiv<int64_t>(args.num_rows, kMaxRowBlock);
  const int64_t rows = CeilDiv<int64_t>(args.num_rows, row_blocks);
  const int64_t panels = CeilDiv(weight.rows, kPanelRows);
  const int64_t grain = SlicesPerPiece(args, row_blocks * panels, rows, pool.num_threads());
  // Slices run fastest: a block of x stays close while the weight streams by.
  const int64_t slices = panels * kPanelSlices;
  pool.ParallelFor(row_blocks * slices, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last;) {
      const int64_t next = std::min(last, RoundUp(i + 1, kPanelSlices));
      MatMulBlock block;
      block.first_row = i / slices * rows;
      block.num_rows = std::min(rows, args.num_rows - block.first_row);
      block.first_output = i % slices * kMatMulSlice;
      block.num_outputs = std::min((next - i) * kMatMulSlice, weight.rows - block.first_output);
      if (block.num_outputs > 0) {
        kernel(args, block);
        AddBias(args, block);
      }
      i = next;
    }
  });
}

void MatMulCpu(const MatMulArgs& args, ThreadPool& pool) {
  MatMulWith(ChooseMatMulKernel(args.weight.dtype), args, pool);
}

}  // namespace ringserve
