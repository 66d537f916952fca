#include <algorithm>
#include <cstddef>

#include "kernels/amx_inl.h"
#include "kernels/cpu_features.h"
#include "kernels/matmul_kernel.h"
#include "kernels/matmul_layout.h"
#include "kernels/swiglu.h"
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

// Panels that a kernel takes at once leave every thread so many pieces.
constexpr int64_t kPiecesPerThread = 4;

constexpr int64_t kPanelSlices = kPanelRows / kMatMulSlice;

// Fewer rows than these are activated after their product, as are those of kernels without AMX:
// whether they gain by the other way was not measured.
constexpr int64_t kMinGatedRows = 32;

// What a thread activates at a time: so little that it stays in the caches beside the weights,
// 128 KiB of gates and as much of what they gate.
constexpr int64_t kGatedRows = 256;
constexpr int64_t kGatedPanels = 2;
constexpr int64_t kGatedFloats = kGatedRows * kGatedPanels * kPanelRows;
static_assert(kGatedPanels <= kMaxAmxPanels && kGatedRows % (2 * kAmxTileRows) == 0);

int64_t PanelsAtOnce(int64_t num_panels, int32_t threads) {
  return std::clamp<int64_t>(num_panels / (kPiecesPerThread * threads), 1, kMaxAmxPanels);
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

// Rows [first, first + count) of one call.
struct Rows {
  int64_t first;
  int64_t count;
};

// All rows in as few blocks of about equal size as `max_rows` allows.
template <typename Body>
void ForEachBlock(int64_t num_rows, int64_t max_rows, const Body& body) {
  const int64_t num_blocks = CeilDiv(num_rows, max_rows);
  for (int64_t i = 0; i < num_blocks; ++i) {
    const int64_t first = i * num_rows / num_blocks;
    body(Rows{first, (i + 1) * num_rows / num_blocks - first});
  }
}

// Some panels of a product by AMX, at most what it takes at once, whose results lie one row after
// the other in `out`.
class PanelProduct {
 public:
  PanelProduct(const MatMulArgs& args, int64_t panel, int64_t num_panels, float* out)
      : args_(args) {
    const int64_t first = panel * kPanelRows;
    const Matrix& weight = args.weight;
    const int64_t offset =
        PackedIndex(first, 0, weight.cols, weight.dtype) * DTypeBytes(weight.dtype);
    args_.weight.data += offset;
    args_.weight.rows = num_panels * kPanelRows;
    args_.out = out;
    args_.bias = args.bias == nullptr ? nullptr : args.bias + first;
  }

  // Row 0 of the result is that of rows.first.
  void Multiply(const Rows& rows, const std::byte* x_tiles) {
    MatMulArgs args = args_;
    args.x = static_cast<const std::byte*>(args.x) +
             rows.first * args.weight.cols * DTypeBytes(args.weight.dtype);
    const MatMulBlock block = {.first_row = 0,
                               .num_rows = rows.count,
                               .first_output = 0,
                               .num_outputs = args.weight.rows,
                               .x_tiles = x_tiles};
    MatMulKernelAmx(args, block);
    AddBias(args, block);
  }

 private:
  MatMulArgs args_;
};

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
  ForEachBlock(args.num_rows, max_rows, [&](const Rows& rows) {
    MatMulBlock block;
    block.first_row = rows.first;
    block.num_rows = rows.count;
    if (is_amx && rows.count > kAmxTileRows) {
      block.x_tiles = PackForAmx(args, block, pool);
    }
    MultiplyRows(kernel, args, block, pool);
  });
}

void MatMulCpu(const MatMulArgs& args, ThreadPool& pool) {
  MatMulWith(ChooseMatMulKernel(args.weight.dtype), args, pool);
}

void MatMulSwiGluWith(MatMulKernel kernel,
                      const MatMulArgs& product,
                      const SwiGluArgs& activation,
                      ThreadPool& pool) {
  const int64_t ffn_dim = activation.ffn_dim;
  const int64_t panels = ffn_dim / kPanelRows;
  // Panels of gates and of what they gate begin together, and every thread gets some.
  const bool in_panels = ffn_dim % kPanelRows == 0 && panels >= int64_t{2} * pool.num_threads();
  if (kernel != MatMulKernelAmx || product.workspace == nullptr || !in_panels ||
      product.num_rows < kMinGatedRows) {
    MatMulWith(kernel, product, pool);
    SwiGluCpu(activation, pool);
    return;
  }
  const int64_t at_once = std::min(PanelsAtOnce(panels, pool.num_threads()), kGatedPanels);
  const int64_t element = DTypeBytes(activation.out_dtype);
  ForEachBlock(product.num_rows, kMaxRowBlock, [&](const Rows& block) {
    const std::byte* x_tiles =
        PackForAmx(product, {.first_row = block.first, .num_rows = block.count}, pool);
    pool.ParallelFor(CeilDiv(panels, at_once), 1, [&](int64_t first, int64_t last) {
      alignas(64) float gate[kGatedFloats];
      alignas(64) float up[kGatedFloats];
      for (int64_t panel = first * at_once; panel < std::min(last * at_once, panels);
           panel += at_once) {
        const int64_t num_panels = std::min(at_once, panels - panel);
        const int64_t width = num_panels * kPanelRows;
        PanelProduct gates(product, panel, num_panels, gate);
        PanelProduct ups(product, panels + panel, num_panels, up);
        for (int64_t row = 0; row < block.count; row += kGatedRows) {
          const Rows rows = {block.first + row, std::min(kGatedRows, block.count - row)};
          const std::byte* tiles = x_tiles + AmxTilesBytes(row, product.weight.cols);
          gates.Multiply(rows, tiles);
          ups.Multiply(rows, tiles);
          for (int64_t r = 0; r < rows.count; ++r) {
            SwiGluSpan(gate + r * width,
                       up + r * width,
                       width,
                       activation.out_dtype,
                       static_cast<std::byte*>(activation.out) +
                           ((rows.first + r) * ffn_dim + panel * kPanelRows) * element);
          }
        }
      }
    });
  });
}

void MatMulSwiGluCpu(const MatMulArgs& product, const SwiGluArgs& activation, ThreadPool& pool) {
  MatMulSwiGluWith(ChooseMatMulKernel(product.weight.dtype), product, activation, pool);
}

}  // namespace ringserve
