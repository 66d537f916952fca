#include "kernels/attention_cuda.h"

#include <cmath>
#include <optional>
#include <vector>

#include "tests/support/attention_device_case.h"
#include "tests/support/catch.h"

namespace ringserve {
namespace {

constexpr int32_t kHeadDims[] = {64, 96, 128, 256};

TEST_CASE("cuda attention equals the reference") {
  for (const auto& [heads, kv_heads] : {std::pair{2, 2}, {8, 2}, {7, 1}}) {
    for (const int32_t head_dim : kHeadDims) {
      for (const int32_t q_len : {1, 7, 64, 65}) {
        for (const int64_t kv_len : {q_len + 0, 127, 128, 300}) {
          CAPTURE(q_len, kv_len);
          CheckAgainstReference(DeviceShape(heads, kv_heads, head_dim),
                                {{.first_position = kv_len - q_len, .num_rows = q_len}},
                                {kNoWindow});
        }
      }
    }
  }
}

TEST_CASE("cuda attention in float16") {
  for (const int32_t head_dim : kHeadDims) {
    CheckAgainstReference(DeviceShape(8, 2, head_dim),
                          {{.first_position = 200, .num_rows = 70}, {.first_position = 300}},
                          {kNoWindow, 100},
                          DType::kF16);
  }
}

TEST_CASE("cuda attention takes any number of heads of a group") {
  for (const auto& [heads, kv_heads] : {std::pair{3, 1}, {16, 1}, {20, 1}, {48, 2}, {71, 1}}) {
    CheckAgainstReference(DeviceShape(heads, kv_heads, 64),
                          {{.first_position = 150, .num_rows = 40}, {.first_position = 200}},
                          {kNoWindow});
  }
}

// More than one batch of sources, and more than one factor a thread.
TEST_CASE("cuda attention folds the splits of long contexts") {
  for (const int32_t head_dim : kHeadDims) {
    const AttentionShape shape = DeviceShape(4, 1, head_dim);
    for (const int32_t num_splits : {9, 33, 65, head_dim + 3}) {
      CAPTURE(num_splits);
      AttentionCase c(shape, {{.first_position = kSplitSize * num_splits - 7}});
      TileOptions options = Options(c);
      options.order = TileOrder::kKMajor;
      c.Plan(options);
      REQUIRE(c.plan().merges.size() == 1);
      REQUIRE(c.plan().merges[0].num_sources == num_splits);
      CheckAgainstReference(c, {kNoWindow});
    }
  }
}

TEST_CASE("cuda attention sees windows and rings that start anywhere") {
  for (const int32_t head_dim : {64, 256}) {
    for (const int32_t block_size : {8, 16, 64, 128, 256}) {
      AttentionShape shape = DeviceShape(4, 2, head_dim);
      shape.block_size = block_size;
      CheckAgainstReference(
          shape,
          {{.first_position = 1300, .num_rows = 70, .first_key = 256 * 4},
           {.first_position = 1303, .first_key = 256 * 4},
           {.first_position = 1290, .num_rows = 9, .first_key = block_size * (1184 / block_size)},
           {.first_position = 2047, .num_rows = 2, .first_key = 1792}},
          {1, 5, 64, 100, kNoWindow});
    }
  }
}

TEST_CASE("a cuda row's bits do not depend on kernel, order, company, chunk or place") {
  for (const int32_t head_dim : kHeadDims) {
    for (const int64_t window : {int64_t{200}, kNoWindow}) {
      AttentionShape shape = DeviceShape(8, 2, head_dim);
      constexpr int32_t kLength = 700;
      AttentionCase whole(shape, {{.num_rows = kLength}});
      DeviceCase whole_device(whole);
      for (const int64_t split_size : {128, 256, 2048}) {
        TileOptions options = Options(whole, split_size);
        options.window = window;
        options.order = TileOrder::kQMajor;
        const auto expected = whole_device.Run(options, AttentionKernels::kPortable);
        for (const AttentionKernels kernels : Families()) {
          const bool portable = kernels == AttentionKernels::kPortable;
          for (const auto order : {TileOrder::kQMajor, TileOrder::kKMajor}) {
            options.order = order;
            for (const int32_t head_tile_size : {0, 1, 3}) {
              options.head_tile_size = head_tile_size;
              CAPTURE(head_dim, window, split_size, portable, order == TileOrder::kQMajor);
              CAPTURE(head_tile_size);
              CHECK(SameBits(whole_device.Run(options, kernels), expected));
            }
            options.head_tile_size = 0;
          }
          options.order.reset();
          for (const int32_t chunk : {1, 7, 200}) {
            for (int32_t first = 0; first < kLength; first += chunk * (chunk < 100 ? 31 : 1)) {
              const int32_t num_rows = std::min(chunk, kLength - first);
              AttentionCase part(shape,
                                 {{.first_position = 77, .num_rows = 3, .seed = 5},
                                  {.first_position = first, .num_rows = num_rows},
                                  {.first_position = first, .seed = 6}},
                                 false,
                                 first);
              DeviceCase part_device(part);
              const auto got = part_device.Run(options, kernels);
              const int64_t row = int64_t{shape.num_heads} * head_dim;
              CAPTURE(head_dim, window, split_size, portable, chunk, first);
              CHECK(std::equal(got.begin() + 3 * row,
                               got.begin() + (3 + num_rows) * row,
                               expected.begin() + first * row));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("cuda attention gives the same bits over shared blocks") {
  const AttentionShape shape = DeviceShape(8, 2, 128);
  std::vector<AttentionSequence> sequences;
  for (int32_t s = 0; s < 5; ++s) {
    sequences.push_back({.first_position = 600 + 5 * s, .num_rows = 1 + s % 2});
  }
  AttentionCase apart(shape, sequences, false);
  AttentionCase shared(shape, sequences, true);
  DeviceCase apart_device(apart);
  DeviceCase shared_device(shared);
  TileOptions options = Options(apart);
  options.order = TileOrder::kKMajor;
  for (const AttentionKernels kernels : Families()) {
    CHECK(SameBits(shared_device.Run(options, kernels), apart_device.Run(options, kernels)));
  }
}

TEST_CASE("what a cuda row does not see never shows, what it sees always does") {
  for (const int32_t head_dim : {64, 128}) {
    const AttentionShape shape = DeviceShape(4, 2, head_dim);
    const std::vector<AttentionSequence> sequences = {{.first_position = 100, .num_rows = 180}};
    for (const bool is_key : {true, false}) {
      AttentionCase clean(shape, sequences);
      AttentionCase dirty(shape, sequences);
      dirty.Poison(0, 175, is_key, std::nanf(""));
      DeviceCase clean_device(clean);
      DeviceCase dirty_device(dirty);
      for (const AttentionKernels kernels : Families()) {
        for (const auto order : {TileOrder::kQMajor, TileOrder::kKMajor}) {
          TileOptions options = Options(clean);
          options.window = 50;
          options.order = order;
          const auto expected = clean_device.Run(options, kernels);
          const auto got = dirty_device.Run(options, kernels);
          const int64_t width = int64_t{shape.num_heads} * head_dim;
          for (int32_t row = 0; row < 180; ++row) {
            const int64_t position = 100 + row;
            CAPTURE(head_dim, is_key, order == TileOrder::kQMajor, position);
            CAPTURE(kernels == AttentionKernels::kPortable);
            if (position >= 175 && position < 175 + 50) {
              REQUIRE(std::isnan(ToFloat(Bf16{got[row * width]})));
              REQUIRE(std::isnan(ToFloat(Bf16{got[row * width + width - 1]})));
            } else if (is_key || position < 128 || position >= 256) {
              REQUIRE(std::equal(got.begin() + row * width,
                                 got.begin() + (row + 1) * width,
                                 expected.begin() + row * width));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("plans and arguments that the cuda kernels cannot run are named") {
  AttentionCase c(DeviceShape(4, 2, 64), {{.first_position = 100}});
  const auto problem = [&](const TileOptions& options) {
    c.Plan(options);
    cuda::PackedAttentionPlan packed;
    return cuda::PackAttentionPlan(
        c.plan(), {.layout = c.args().kv.layout, .num_heads = 4}, packed);
  };
  CHECK(problem(Options(c)) == nullptr);
  CHECK(problem(Options(c, 100)) != nullptr);
  cuda::AttentionCudaArgs args;
  args.kv.layout = {.block_size = 64, .num_layers = 1, .num_kv_heads = 2, .head_dim = 64};
  args.num_blocks = 4;
  args.num_heads = 4;
  args.scale = 1;
  CHECK(cuda::CheckAttentionCudaArgs(args) == nullptr);
  const auto broken = [&](const auto& change) {
    cuda::AttentionCudaArgs changed = args;
    change(changed);
    return cuda::CheckAttentionCudaArgs(changed) != nullptr;
  };
  using Args = cuda::AttentionCudaArgs;
  CHECK(broken([](Args& a) { a.kv.layout.head_dim = 84; }));
  CHECK(broken([](Args& a) { a.kv.layout.block_size = 48; }));
  CHECK(broken([](Args& a) { a.kv.layout.dtype = DType::kF16; }));
  CHECK(broken([](Args& a) { a.dtype = DType::kF32; }));
  CHECK(broken([](Args& a) { a.num_heads = 3; }));
  CHECK(broken([](Args& a) { a.scale = std::nanf(""); }));
  CHECK(broken([](Args& a) { a.q_stride = 4; }));
  CHECK(broken([](Args& a) { a.num_blocks = 0; }));
  CHECK(broken([](Args& a) { a.plan.num_partials = 1; }));
  CHECK(broken([](Args& a) { a.kv.pool = reinterpret_cast<std::byte*>(64); }));
}

}  // namespace
}  // namespace ringserve
