// Attention that takes the rotation and the append of its one row along.
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

// One row of a sequence whose own key is not in the pool yet.
class RowCase {
 public:
  RowCase(const AttentionShape& shape, const AttentionSequence& sequence, DType dtype)
      : case_(shape, {sequence}),
        dtype_(dtype),
        random_(sequence.first_position + shape.head_dim),
        qkv_(random_.NormalVector(
            (shape.num_heads + 2 * int64_t{shape.num_kv_heads}) * shape.head_dim, 3)),
        angles_(random_.NormalVector(shape.head_dim)),
        slot_(sizeof(int64_t)),
        q_(size_t{2} * shape.num_heads * shape.head_dim),
        out_(size_t{2} * shape.num_heads * shape.head_dim),
        workspace_(cuda::AttentionWorkspaceBytes(Device(), shape.head_dim, 64)) {
    case_.Poison(0, sequence.first_position, true, std::nanf(""));
    case_.Poison(0, sequence.first_position, false, std::nanf(""));
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
    const BlockEntry& last = case_.plan().entries.back();
    const int64_t position = case_.plan().sequences.front().first_position;
    const std::vector<int64_t> slot = {int64_t{last.block} * layout.block_size +
                                       position % layout.block_size};
    CheckCuda(cudaMemcpy(slot_.as(), slot.data(), 8, cudaMemcpyHostToDevice), "slot");
    args_.q = q_.as();
    args_.kv = host.kv;
    args_.kv.layout.dtype = dtype_;
    args_.out = out_.as();
    args_.num_heads = host.num_heads;
    args_.q_stride = int64_t{host.num_heads} * layout.head_dim;
    args_.out_stride = args_.q_stride;
    args_.num_rows = 1;
    args_.scale = host.scale;
    args_.dtype = dtype_;
    args_.workspace = workspace_.as();
    args_.max_partials = 64;
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
            .slots = slot_.as<int64_t>(),
            .q = q_.as(),
            .kv = args_.kv,
            .num_rows = 1,
            .num_heads = args_.num_heads,
            .q_dtype = dtype_};
  }

 private:
  static std::vector<uint16_t> Words(const std::vector<uint32_t>& pool) {
    const auto* words = reinterpret_cast<const uint16_t*>(pool.data());
    return {words, words + 2 * pool.size()};
  }

  AttentionCase case_;
  DType dtype_;
  Random random_;
  DeviceMemory qkv_, angles_, slot_, q_, out_, workspace_;
  std::unique_ptr<DeviceMemory> plan_;
  cuda::AttentionCudaArgs args_;
};

AttentionShape Shape(int32_t num_heads, int32_t num_kv_heads, int32_t head_dim, int32_t block) {
  AttentionShape shape = DeviceShape(num_heads, num_kv_heads, head_dim);
  shape.block_size = block;
  return shape;
}

void CheckTogether(const AttentionShape& shape,
                   const AttentionSequence& sequence,
                   DType dtype = DType::kBf16,
                   const std::vector<int64_t>& windows = {kNoWindow, 5, 100}) {
  RowCase row(shape, sequence, dtype);
  for (const int64_t window : windows) {
    TileOptions options = {.num_heads = shape.num_heads,
                           .num_kv_heads = shape.num_kv_heads,
                           .tile_size = shape.block_size,
                           .window = window,
                           .split_size = 2048};
    CAPTURE(shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.block_size);
    CAPTURE(sequence.first_position, sequence.first_key, window, DTypeName(dtype));
    REQUIRE(row.Prepare(options));
    const auto apart = row.Run(false);
    const auto together = row.Run(true);
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
      CheckTogether(Shape(8, 2, head_dim, 64), {.first_position = position});
    }
    for (const auto& [heads, kv_heads] : {std::pair{2, 2}, {7, 1}, {16, 1}, {20, 1}, {32, 8}}) {
      CheckTogether(Shape(heads, kv_heads, head_dim, 64), {.first_position = 777});
    }
    for (const int32_t block : {8, 16, 128, 256}) {
      CheckTogether(Shape(4, 2, head_dim, block), {.first_position = 1001});
      CheckTogether(Shape(4, 2, head_dim, block), {.first_position = 1500, .first_key = 1280});
    }
    CheckTogether(Shape(8, 2, head_dim, 32), {.first_position = 900}, DType::kF16);
    CheckTogether(Shape(8, 2, head_dim, 32), {.first_position = 5000}, DType::kBf16, {1, 100, 900});
  }
}

TEST_CASE("attention leaves a rotation alone that it cannot take along", "[cuda][row]") {
  if (!Device().hopper) {
    return;
  }
  const auto takes = [](const AttentionShape& shape, const AttentionSequence& sequence) {
    TileOptions options = {.num_heads = shape.num_heads,
                           .num_kv_heads = shape.num_kv_heads,
                           .tile_size = shape.block_size,
                           .split_size = 2048};
    return RowCase(shape, sequence, DType::kBf16).Prepare(options);
  };
  CHECK(takes(Shape(8, 2, 64, 64), {.first_position = 500}));
  CHECK_FALSE(takes(Shape(8, 2, 64, 64), {.first_position = 2048}));
  CHECK_FALSE(takes(Shape(8, 2, 96, 64), {.first_position = 500}));
  CHECK_FALSE(takes(Shape(8, 2, 256, 64), {.first_position = 500}));
  CHECK_FALSE(takes(Shape(64, 64, 64, 64), {.first_position = 500}));
}

}  // namespace
}  // namespace ringserve
