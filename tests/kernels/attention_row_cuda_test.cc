// Attention that takes the rotation and the append of its rows along.
#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/attention_cuda.h"
#include "kernels/rope_cuda.h"
#include "tests/support/attention_device_case.h"
#include "tests/support/catch.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

constexpr int64_t kMaxPartials = 4096;

// Rows, each alone in its sequence, whose own keys are not in the pool yet.
class RowsCase {
 public:
  RowsCase(const AttentionShape& shape,
           const std::vector<AttentionSequence>& sequences,
           DType dtype = DType::kBf16)
      : case_(shape, sequences),
        dtype_(dtype),
        num_rows_(NumRows(sequences)),
        random_(sequences.front().first_position + shape.head_dim),
        qkv_(random_.NormalVector(
            (shape.num_heads + 2 * int64_t{shape.num_kv_heads}) * shape.head_dim * num_rows_, 3)),
        angles_(random_.NormalVector(int64_t{shape.head_dim} * num_rows_)),
        slots_(sizeof(int64_t) * num_rows_),
        q_(size_t{2} * shape.num_heads * shape.head_dim * num_rows_),
        out_(size_t{2} * shape.num_heads * shape.head_dim * num_rows_),
        workspace_(cuda::AttentionWorkspaceBytes(Device(), shape.head_dim, kMaxPartials)) {
    for (int32_t s = 0; s < static_cast<int32_t>(sequences.size()); ++s) {
      const int64_t own = sequences[s].first_position + sequences[s].num_rows - 1;
      case_.Poison(s, own, true, std::nanf(""));
      case_.Poison(s, own, false, std::nanf(""));
    }
  }

  bool Prepare(const TileOptions& options) {
    case_.Plan(options);
    const AttentionArgs& host = case_.args();
    const KvLayout& layout = host.kv.layout;
    cuda::PackedAttentionPlan packed;
    REQUIRE(cuda::PackAttentionPlan(
                case_.plan(), {.layout = layout, .num_heads = host.num_heads}, packed) == nullptr);
    std::vector<std::byte> image(cuda::PackedBytes(packed));
    plan_ = std::make_unique<DeviceMemory>(image.size());
    args_.plan = cuda::WritePlan(packed, image.data(), plan_->as());
    CheckCuda(cudaMemcpy(plan_->as(), image.data(), image.size(), cudaMemcpyHostToDevice), "plan");
    std::vector<int64_t> slots;
    for (const TileSequence& sequence : case_.plan().sequences) {
      const BlockEntry& last =
          case_.plan().entries[sequence.first_entry + sequence.num_entries - 1];
      slots.push_back(int64_t{last.block} * layout.block_size +
                      sequence.first_position % layout.block_size);
    }
    CheckCuda(cudaMemcpy(slots_.as(), slots.data(), 8 * slots.size(), cudaMemcpyHostToDevice),
              "slots");
    args_.q = q_.as();
    args_.kv = host.kv;
    args_.kv.layout.dtype = dtype_;
    args_.out = out_.as();
    args_.num_heads = host.num_heads;
    args_.q_stride = int64_t{host.num_heads} * layout.head_dim;
    args_.out_stride = args_.q_stride;
    args_.num_rows = case_.plan().num_rows;
    args_.scale = host.scale;
    args_.dtype = dtype_;
    args_.workspace = workspace_.as();
    args_.max_partials = kMaxPartials;
    return cuda::TakesRope(Device(), args_, Rope(), AttentionKernels::kBest);
  }

  // The output, then the pool.
  std::vector<std::vector<uint16_t>> Run(bool together) {
    const DeviceMemory pool(dtype_ == DType::kF16
                                ? AsHalf(reinterpret_cast<const std::byte*>(case_.pool().data()),
                                         case_.pool().size() * 4)
                                : Words(case_.pool()));
    args_.kv.pool = pool.as();
    args_.num_blocks = static_cast<int32_t>(pool.bytes() / args_.kv.layout.block_bytes());
    workspace_.Fill(0);
    out_.Fill(0xff);
    const RopeAppendArgs rope = Rope();
    args_.rope = together ? &rope : nullptr;
    if (!together) {
      CheckCuda(cuda::LaunchRopeAppend(rope, nullptr), "LaunchRopeAppend");
    }
    CheckCuda(cuda::LaunchAttention(Device(), args_, AttentionKernels::kBest, nullptr),
              "LaunchAttention");
    CheckCuda(cudaDeviceSynchronize(), "attention");
    return {out_.Download<uint16_t>(), pool.Download<uint16_t>()};
  }

  RopeAppendArgs Rope() const {
    return {.qkv = qkv_.as<float>(),
            .angles = angles_.as<float>(),
            .slots = slots_.as<int64_t>(),
            .q = q_.as(),
            .kv = args_.kv,
            .num_rows = num_rows_,
            .num_heads = args_.num_heads,
            .q_dtype = dtype_};
  }

 private:
  static int32_t NumRows(const std::vector<AttentionSequence>& sequences) {
    int32_t rows = 0;
    for (const AttentionSequence& sequence : sequences) {
      rows += sequence.num_rows;
    }
    return rows;
  }

  static std::vector<uint16_t> Words(const std::vector<uint32_t>& pool) {
    const auto* words = reinterpret_cast<const uint16_t*>(pool.data());
    return {words, words + 2 * pool.size()};
  }

  AttentionCase case_;
  DType dtype_;
  int32_t num_rows_;
  Random random_;
  DeviceMemory qkv_, angles_, slots_, q_, out_, workspace_;
  std::unique_ptr<DeviceMemory> plan_;
  cuda::AttentionCudaArgs args_;
};

AttentionShape Shape(int32_t num_heads, int32_t num_kv_heads, int32_t head_dim, int32_t block) {
  AttentionShape shape = DeviceShape(num_heads, num_kv_heads, head_dim);
  shape.block_size = block;
  return shape;
}

void CheckTogether(const AttentionShape& shape,
                   const std::vector<AttentionSequence>& sequences,
                   DType dtype = DType::kBf16,
                   const std::vector<int64_t>& windows = {kNoWindow, 5, 100},
                   int64_t split_size = 2048) {
  RowsCase rows(shape, sequences, dtype);
  for (const int64_t window : windows) {
    TileOptions options = {.num_heads = shape.num_heads,
                           .num_kv_heads = shape.num_kv_heads,
                           .tile_size = shape.block_size,
                           .window = window,
                           .split_size = split_size};
    CAPTURE(shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.block_size);
    CAPTURE(sequences.size(), sequences[0].first_position, sequences[0].first_key);
    CAPTURE(window, split_size, DTypeName(dtype));
    REQUIRE(rows.Prepare(options));
    const auto apart = rows.Run(false);
    const auto together = rows.Run(true);
    CHECK(SameBits(together[0], apart[0]));
    CHECK(together[1] == apart[1]);
  }
}

TEST_CASE("cuda attention with its row's rotation has the bits of both apart", "[cuda][row]") {
  if (!Device().hopper) {
    return;
  }
  for (const int32_t head_dim : {64, 128}) {
    for (const int64_t position : {0, 1, 31, 32, 127, 128, 300, 1023, 1024, 1100, 1920, 2047}) {
      CheckTogether(Shape(8, 2, head_dim, 64), {{.first_position = position}});
    }
    for (const auto& [heads, kv_heads] : {std::pair{2, 2}, {7, 1}, {16, 1}, {20, 1}, {32, 8}}) {
      CheckTogether(Shape(heads, kv_heads, head_dim, 64), {{.first_position = 777}});
    }
    for (const int32_t block : {8, 16, 128, 256}) {
      CheckTogether(Shape(4, 2, head_dim, block), {{.first_position = 1001}});
      CheckTogether(Shape(4, 2, head_dim, block), {{.first_position = 1500, .first_key = 1280}});
    }
    CheckTogether(Shape(8, 2, head_dim, 32), {{.first_position = 900}}, DType::kF16);
    CheckTogether(
        Shape(8, 2, head_dim, 32), {{.first_position = 5000}}, DType::kBf16, {1, 100, 900});
  }
}

// Many enough that blocks take several items; some in several splits, the own key first in one.
std::vector<AttentionSequence> ManySequences(int32_t count, int64_t longest) {
  Random random(count);
  std::vector<AttentionSequence> sequences = {{.first_position = 2048, .seed = 1},
                                              {.first_position = 2047, .seed = 2},
                                              {.first_position = 0, .seed = 3}};
  while (std::ssize(sequences) < count) {
    sequences.push_back({.first_position = random.Int(0, longest),
                         .seed = static_cast<uint64_t>(std::ssize(sequences)) + 1});
  }
  return sequences;
}

TEST_CASE("cuda attention with many rows' rotation has the bits of both apart", "[cuda][row]") {
  if (!Device().hopper) {
    return;
  }
  for (const int32_t head_dim : {64, 128}) {
    for (const int64_t position : {2048, 2049, 5000}) {  // alone, but in several splits
      CheckTogether(Shape(8, 2, head_dim, 64), {{.first_position = position}});
    }
    CheckTogether(Shape(32, 8, head_dim, 64), ManySequences(40, 700));
    for (const auto& [heads, kv_heads] : {std::pair{2, 2}, {7, 1}, {16, 1}, {64, 64}}) {
      CheckTogether(Shape(heads, kv_heads, head_dim, 64), ManySequences(5, 400));
    }
    for (const int32_t block : {8, 16, 128, 256}) {
      CheckTogether(Shape(4, 2, head_dim, block), ManySequences(7, 900));
    }
    CheckTogether(Shape(4, 2, head_dim, 64),
                  {{.first_position = 1500, .first_key = 1280}, {.first_position = 1300}});
    CheckTogether(Shape(8, 2, head_dim, 32), ManySequences(6, 900), DType::kF16);
    CheckTogether(
        Shape(8, 2, head_dim, 32), ManySequences(9, 1500), DType::kBf16, {kNoWindow, 300}, 256);
  }
}

TEST_CASE("attention leaves a rotation alone that it cannot take along", "[cuda][row]") {
  if (!Device().hopper) {
    return;
  }
  const auto takes = [](const AttentionShape& shape, std::vector<AttentionSequence> sequences) {
    TileOptions options = {.num_heads = shape.num_heads,
                           .num_kv_heads = shape.num_kv_heads,
                           .tile_size = shape.block_size,
                           .split_size = 2048};
    return RowsCase(shape, sequences).Prepare(options);
  };
  CHECK(takes(Shape(8, 2, 64, 64), {{.first_position = 500}}));
  CHECK(takes(Shape(8, 2, 64, 64), {{.first_position = 2048}}));
  CHECK(takes(Shape(8, 2, 64, 64), {{.first_position = 500}, {.first_position = 9}}));
  CHECK_FALSE(takes(Shape(8, 2, 96, 64), {{.first_position = 500}}));
  CHECK_FALSE(takes(Shape(8, 2, 256, 64), {{.first_position = 500}}));
  // More heads on a key than an item holds, beyond what a cluster takes.
  CHECK_FALSE(takes(Shape(20, 1, 64, 64), {{.first_position = 2048}}));
  // Rows of one sequence see each other's keys.
  CHECK_FALSE(takes(Shape(8, 2, 64, 64), {{.first_position = 500, .num_rows = 2}}));
}

}  // namespace
}  // namespace ringserve
