#include <algorithm>

#include "kernels/amx_inl.h"
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

// Panels that a kernel takes at once, as many as leave every thread some pieces.
int64_t PanelsAtOnce(int64_t num_panels, int32_t threads) {
  return std::clamp<int64_t>(num_panels / (kPanelsPerThread * threads), 1, kMaxAmxPanels);
}

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

// The block's rows of x in tiles, in the workspace.
const std::byte* PackForAmx(const MatMulArgs& args, const MatMulBlock& block, ThreadPool& pool) {
  const int64_t num_tiles = CeilDiv<int64_t>(block.num_rows, kAmxTileRows);
  pool.ParallelFor(num_tiles, 1, [&](int64_t first, int64_t last) {
    for (int64_t tile = first; tile < last; ++tile) {
      PackAmxTile(args, block, tile, args.workspace);
    }
  });
  return args.workspace;
}

// All outputs of the block's rows.
void MultiplyRows(MatMulKernel kernel,
                  const MatMulArgs& args,
                  const MatMulBlock& rows,
                  ThreadPool& pool) {
  const int64_t panels = CeilDiv(args.weight.rows, kPanelRows);
  const int64_t at_once =
      kPanelSlices * (rows.x_tiles != nullptr ? PanelsAtOnce(panels, pool.num_threads()) : 1);
  const int64_t grain = SlicesPerPiece(args, panels, rows.num_rows, pool.num_threads());
  pool.ParallelFor(panels * kPanelSlices,
                   grain < kPanelSlices ? grain : RoundUp(grain, at_once),
                   [&](int64_t first, int64_t last) {
                     for (int64_t i = first; i < last;) {
                       const int64_t next = std::min(last, RoundUp(i + 1, at_once));
                       MatMulBlock block = rows;
                       block.first_output = i * kMatMulSlice;
                       block.num_outputs = std::min((next - i) * kMatMulSlice,
                                                    args.weight.rows - block.first_output);
                       if (block.num_outputs > 0) {
                         kernel(args, block);
                         AddBias(args, block);
                       }
                       i = next;
                     }
                   });
}

}  // namespace

MatMulKernel ChooseMatMulKernel(DType dtype) {
  static const MatMulKernel bf16 = HasAmxBf16()   ? MatMulKernelAmx
                                   : HasBf16Dot() ? MatMulKernelBf16Dot
                                                  : MatMulKernelFloat;
  return dtype == DType::kBf16 ? bf16 : MatMulKernelFloat;
}

int64_t MatMulWorkspaceBytes(int64_t max_rows, int64_t max_cols, DType dtype) {
  return ChooseMatMulKernel(dtype) == MatMulKernelAmx
             ? AmxTilesBytes(std::min(max_rows, kMaxRowBlock), max_cols)
             : 0;
}

void MatMulWith(MatMulKernel kernel, const MatMulArgs& args, ThreadPool& pool) {
  const bool is_amx = kernel == MatMulKernelAmx;
  const int64_t max_rows = is_amx && args.workspace == nullptr ? kAmxTileRows : kMaxRowBlock;
  const int64_t num_blocks = CeilDiv<int64_t>(args.num_rows, max_rows);
  for (int64_t i = 0; i < num_blocks; ++i) {
    MatMulBlock rows;
    rows.first_row = i * args.num_rows / num_blocks;
    rows.num_rows = (i + 1) * args.num_rows / num_blocks - rows.first_row;
    if (is_amx && rows.num_rows > kAmxTileRows) {
      rows.x_tiles = PackForAmx(args, rows, pool);
    }
    MultiplyRows(kernel, args, rows, pool);
  }
}

void MatMulCpu(const MatMulArgs& args, ThreadPool& pool) {
  MatMulWith(ChooseMatMulKernel(args.weight.dtype), args, pool);
}

}  // namespace ringserve
