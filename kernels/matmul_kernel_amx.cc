// MatMulKernelAmx for x86-64: tiles of 16 rows of x by tiles of 16 outputs. What lies in a panel,
// [k / 2][output][k % 2], is what the instruction wants on its right side. One or two rows go by
// vectors (matmul_few_amx.h).
#include <hwy/base.h>

#include "kernels/matmul_kernel.h"
#include "kernels/matmul_layout.h"

#if HWY_ARCH_X86_64
#include <algorithm>
#include <cstring>

#include "kernels/matmul_few_amx.h"
#include "kernels/matmul_tiles_amx_inl.h"

namespace ringserve {
namespace {

constexpr int64_t kPanelTiles = kPanelRows / kTile;
constexpr int64_t kPairBytes = kPanelTiles * kAmxTileBytes;  // of a panel, for a pair of k
constexpr int64_t kStepBytes = kAmxStep / 2 * kPairBytes;    // of a panel
constexpr int64_t kLine = 64;

// Few rows pass their weights faster than memory delivers them, and ask for them so far ahead.
constexpr int64_t kAheadBytes = 1536;

// Many rows: 2 x 2 tiles are four products for four loads. So many steps of a group of two tiles of
// rows lie in the first-level cache while the weights of all panels pass by, out of the second,
// where the results of all groups of a chunk lie too. Sums that stay in their tiles from end to end
// are slower, since both sides then come from the second level, and so is x as it lies, whose rows
// share few sets of the caches. More steps are faster over weights that the second level holds, and
// slower over those that memory brings meanwhile.
constexpr int64_t kGroupRows = 2 * kTile;
constexpr int64_t kGroupOutputs = 2 * kTile;
constexpr int64_t kBlockSteps = 8;
constexpr int64_t kChunkGroups = 8;
constexpr int64_t kChunkRows = kChunkGroups * kGroupRows;

// A block of a product, its rows and steps counted from its first.
class Block {
 public:
  Block(const MatMulArgs& args, const MatMulBlock& block)
      : cols_(args.weight.cols),
        stride_(args.weight.rows),
        num_rows_(block.num_rows),
        first_output_(block.first_output),
        last_output_(block.first_output + block.num_outputs),
        weight_(args.weight.data),
        out_(args.out + block.first_row * stride_) {}

 protected:
  int64_t num_steps() const { return cols_ / kAmxStep; }

  // Of k, past the last whole step.
  int64_t tail() const { return cols_ % kAmxStep; }

  Side Weight(int64_t output, int64_t step) const {
    return {.first = weight_ + PackedIndex(output, step * kAmxStep, cols_, DType::kBf16) * 2,
            .row_bytes = kPairBytes,
            .step_bytes = kStepBytes,
            .tile_bytes = kAmxTileBytes};
  }

  float* Out(int64_t row, int64_t output) const { return out_ + row * stride_ + output; }

  int64_t cols_;
  int64_t stride_;  // of `out`
  int64_t num_rows_;
  int64_t first_output_;
  int64_t last_output_;

 private:
  const std::byte* weight_;
  float* out_;
};

// One tile of rows at most, of x as it lies: the weights pass by once.
class FewRows : public Block {
 public:
  FewRows(const MatMulArgs& args, const MatMulBlock& block)
      : Block(args, block),
        x_(static_cast<const std::byte*>(args.x) + block.first_row * cols_ * 2) {}

  void Run() const {
    for (int64_t output = first_output_; output < last_output_;) {
      const int64_t left = std::min(last_output_, RoundUp(output + 1, kPanelRows)) - output;
      if (left == kPanelRows) {
        Multiply<kPanelTiles>(output);
        output += kPanelRows;
      } else {
        Multiply<1>(output);
        output += kTile;
      }
    }
  }

 private:
  template <int O>
  void Multiply(int64_t output) const {
    const int64_t outputs = std::min(last_output_ - output, O * kTile);
    if (num_steps() > 0) {
      Tiles<1, O>::Configure(num_rows_, outputs, kAmxStep / 2);
      const Side weight = Weight(output, 0);
      Fetcher<3> fetcher(weight.first + kAheadBytes, O == 1 ? kPairBytes : kLine, kTile);
      Tiles<1, O>::Add({x_, cols_ * 2, kAmxTileBytes, 0}, weight, num_steps(), fetcher);
      Tiles<1, O>::Store(Out(0, output), stride_);
    }
    if (tail() > 0) {
      AddTail<O>(output, outputs);
    }
  }

  template <int O>
  void AddTail(int64_t output, int64_t outputs) const {
    alignas(64) std::byte x[kTileBytes] = {};
    const std::byte* from = x_ + num_steps() * kAmxTileBytes;
    for (int64_t row = 0; row < num_rows_; ++row) {
      std::memcpy(x + row * kAmxTileBytes, from + row * cols_ * 2, static_cast<size_t>(tail()) * 2);
    }
    Tiles<1, O>::Configure(num_rows_, outputs, CeilDiv<int64_t>(tail(), 2));
    if (num_steps() > 0) {
      Tiles<1, O>::Load(Out(0, output), stride_);
    }
    Tiles<1, O>::Add({x, kAmxTileBytes, 0, 0}, Weight(output, num_steps()), 1);
    Tiles<1, O>::Store(Out(0, output), stride_);
  }

  const std::byte* x_;
};

// Any number of rows, of x as PackAmxTile() packs it.
class ManyRows : public Block {
 public:
  ManyRows(const MatMulArgs& args, const MatMulBlock& block)
      : Block(args, block), tiles_(block.x_tiles) {}

  void Run() {
    for (int64_t row = 0; row < num_rows_; row += kChunkRows) {
      const int64_t last_row = std::min(row + kChunkRows, num_rows_);
      Tiles<2, 2>::Configure(kGroupRows, kGroupOutputs, kAmxStep / 2);
      for (int64_t step = 0; step < num_steps(); step += kBlockSteps) {
        Add(row, last_row, step, std::min(step + kBlockSteps, num_steps()));
      }
      if (tail() > 0) {
        Tiles<2, 2>::Configure(kGroupRows, kGroupOutputs, CeilDiv<int64_t>(tail(), 2));
        Add(row, last_row, num_steps(), num_steps() + 1);
      }
    }
  }

 private:
  static constexpr int64_t kMaxTiles = kChunkGroups * 2 * kMaxAmxPanels * kPanelTiles;

  // Steps [step, last_step) of a chunk. Meanwhile the lines of the next are fetched, a share by
  // each group of rows and outputs.
  void Add(int64_t first_row, int64_t last_row, int64_t step, int64_t last_step) {
    const int64_t num_groups = CeilDiv<int64_t>(last_row - first_row, kGroupRows);
    const int64_t lines = CeilDiv<int64_t>(kStepBytes / kLine, 2 * num_groups);
    const int64_t x_lines =
        CeilDiv<int64_t>(2 * kTile, CeilDiv<int64_t>(last_output_ - first_output_, kGroupOutputs));
    float* results = results_;
    for (int64_t row = first_row; row < last_row; row += kGroupRows) {
      const bool is_last_group = row + kGroupRows >= last_row;
      const Side next_x = is_last_group ? X(first_row, last_step) : X(row + kGroupRows, step);
      Fetcher<2> x_fetcher(next_x.first, kLine, x_lines);
      for (int64_t output = first_output_; output < last_output_; output += kGroupOutputs) {
        const int64_t share = (row - first_row) / kGroupRows * 2 + output / kGroupOutputs % 2;
        const Side panel = Weight(output / kPanelRows * kPanelRows, last_step);
        Fetcher<2> fetcher(panel.first + share * lines * kBlockSteps * kLine, kLine, lines);
        if (last_output_ - output > kTile) {
          AddGroup<2>(row, output, step, last_step, results, x_fetcher, fetcher);
        } else {
          AddGroup<1>(row, output, step, last_step, results, x_fetcher, fetcher);
        }
        results += int64_t{4} * kTileFloats;
      }
    }
  }

  template <int O, class... Fetchers>
  HWY_INLINE void AddGroup(int64_t row,
                           int64_t output,
                           int64_t step,
                           int64_t last_step,
                           float* results,
                           Fetchers&... fetchers) {
    if (step == 0) {
      Tiles<2, O>::Zero();
    } else {
      Tiles<2, O>::Load(results);
    }
    Tiles<2, O>::Add(X(row, step), Weight(output, step), last_step - step, fetchers...);
    const bool is_last = last_step * kAmxStep >= cols_;
    const bool is_whole = num_rows_ - row >= kGroupRows && last_output_ - output >= O * kTile;
    if (is_last && is_whole) {
      Tiles<2, O>::Store(Out(row, output), stride_);
      return;
    }
    Tiles<2, O>::Store(results);
    if (is_last) {
      Write<O>(row, output, results);
    }
  }

  // What there is of a group.
  template <int O>
  void Write(int64_t first_row, int64_t output, const float* results) const {
    const int64_t num_rows = std::min(kGroupRows, num_rows_ - first_row);
    for (int64_t row = 0; row < num_rows; ++row) {
      for (int64_t o = 0; o < O; ++o) {
        const int64_t left = std::min(kTile, last_output_ - output - o * kTile);
        const float* from = results + (row / kTile * O + o) * kTileFloats + row % kTile * kTile;
        std::copy_n(from, std::max<int64_t>(left, 0), Out(first_row + row, output + o * kTile));
      }
    }
  }

  Side X(int64_t row, int64_t step) const {
    const int64_t group = row / kGroupRows * CeilDiv(cols_, kAmxStep);
    return {.first = tiles_ + (group + step) * 2 * kTileBytes,
            .row_bytes = kAmxTileBytes,
            .step_bytes = 2 * kTileBytes,
            .tile_bytes = kTileBytes};
  }

  const std::byte* tiles_;
  alignas(64) float results_[kMaxTiles * kTileFloats];
};

}  // namespace

int64_t AmxTilesBytes(int64_t num_rows, int64_t cols) {
  return CeilDiv(num_rows, kGroupRows) * CeilDiv(cols, kAmxStep) * 2 * kTileBytes;
}

// Lines are written one after the other: in the order of rows they would all meet in a few sets of
// the caches.
void PackAmxTile(const MatMulArgs& args, const MatMulBlock& block, int64_t tile, std::byte* to) {
  const int64_t cols = args.weight.cols;
  const int64_t num_steps = CeilDiv(cols, kAmxStep);
  const int64_t first_row = block.first_row + tile * kTile;
  const int64_t num_rows = std::min(kTile, block.num_rows - tile * kTile);
  to += (tile / 2 * num_steps * 2 + tile % 2) * kTileBytes;
  for (int64_t step = 0; step < num_steps; ++step) {
    const auto* from =
        static_cast<const std::byte*>(args.x) + (first_row * cols + step * kAmxStep) * 2;
    const int64_t bytes = std::min(kAmxStep, cols - step * kAmxStep) * 2;
    if (num_rows < kTile || bytes < kAmxTileBytes) {
      std::memset(to, 0, kTileBytes);
    }
    for (int64_t row = 0; row < num_rows; ++row) {
      std::memcpy(to + row * kAmxTileBytes, from + row * cols * 2, static_cast<size_t>(bytes));
    }
    to += 2 * kTileBytes;
  }
}

void MatMulKernelAmx(const MatMulArgs& args, const MatMulBlock& block) {
  if (block.num_rows <= kMaxFewAmxRows) {
    MatMulFewAmx(args, block);
    return;
  }
  if (block.x_tiles == nullptr) {
    FewRows(args, block).Run();
  } else {
    ManyRows(args, block).Run();
  }
  AmxRelease();
}

}  // namespace ringserve

#else

#include <cstdlib>

// HasAmxBf16() is false on this architecture.
namespace ringserve {

int64_t AmxTilesBytes(int64_t /*num_rows*/, int64_t /*cols*/) {
  std::abort();
}

void PackAmxTile(const MatMulArgs& /*args*/,
                 const MatMulBlock& /*block*/,
                 int64_t /*tile*/,
                 std::byte* /*to*/) {
  std::abort();
}

void MatMulKernelAmx(const MatMulArgs& /*args*/, const MatMulBlock& /*block*/) {
  std::abort();
}

}  // namespace ringserve

#endif
