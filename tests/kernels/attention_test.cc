#include "kernels/attention.h"

#include <cmath>
#include <vector>

#include "kernels/attention_kernel.h"
#include "tests/support/attention_case.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace ringserve {
namespace {

ThreadPool& Threads() {
  static ThreadPool pool(2);
  return pool;
}

// The rule of STYLE.md section 11. bf16 products round the probabilities, so the yardstick does.
void CheckAgainstReference(AttentionCase& c, const AttentionShape& shape, const TileOptions& o) {
  c.Run(o, Threads());
  REQUIRE(CheckAttentionArgs(c.args()) == nullptr);
  const DType round_p =
      shape.q_dtype == DType::kBf16 && shape.kv_dtype == DType::kBf16 ? DType::kBf16 : DType::kF32;
  const std::vector<double> truth = c.Reference<double>(DType::kF32);
  std::vector<float> plain = c.Reference<float>(round_p);
  if (shape.out_dtype == DType::kBf16) {
    plain = ToFloat(ToBf16(plain));
  }
  CHECK(MaxError(c.Output(), truth) <=
        2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), shape.out_dtype));
}

struct Types {
  DType q;
  DType kv;
  DType out;
};

constexpr Types kTypes[] = {{DType::kBf16, DType::kBf16, DType::kBf16},
                            {DType::kBf16, DType::kBf16, DType::kF32},
                            {DType::kF32, DType::kF32, DType::kF32},
                            {DType::kF32, DType::kBf16, DType::kF32},
                            {DType::kBf16, DType::kF32, DType::kBf16}};

TEST_CASE("attention equals the reference") {
  for (const auto& [heads, kv_heads] : {std::pair{2, 2}, {6, 2}, {5, 1}}) {
    for (const int32_t head_dim : {64, 128}) {
      for (const Types& types : kTypes) {
        const AttentionShape shape = {.num_heads = heads,
                                      .num_kv_heads = kv_heads,
                                      .head_dim = head_dim,
                                      .block_size = 32,
                                      .kv_dtype = types.kv,
                                      .q_dtype = types.q,
                                      .out_dtype = types.out};
        for (const int32_t q_len : {1, 7, 64, 65}) {
          for (const int64_t kv_len : {q_len + 0, 96, 127, 161}) {
            CAPTURE(heads, head_dim, q_len, kv_len);
            CAPTURE(DTypeName(types.q), DTypeName(types.kv), DTypeName(types.out));
            AttentionCase c(shape, {{.first_position = kv_len - q_len, .num_rows = q_len}});
            CheckAgainstReference(c, shape, c.Options());
          }
        }
      }
    }
  }
}

TEST_CASE("attention takes any head_dim that is a multiple of 8") {
  for (int32_t head_dim = 8; head_dim <= 256; head_dim += 8) {
    for (const Types& types : kTypes) {
      const AttentionShape shape = {.head_dim = head_dim,
                                    .kv_dtype = types.kv,
                                    .q_dtype = types.q,
                                    .out_dtype = types.out,
                                    .q_scale = 3};
      CAPTURE(head_dim, DTypeName(types.q), DTypeName(types.kv));
      AttentionCase c(shape, {{.first_position = 61, .num_rows = 7}, {.first_position = 90}});
      CheckAgainstReference(c, shape, c.Options());
    }
  }
}

TEST_CASE("attention sees windows, sinks and rings that start anywhere") {
  for (const Types& types : kTypes) {
    for (const int32_t block_size : {8, 16, 64, 128}) {
      for (const int64_t window : {int64_t{1}, int64_t{5}, int64_t{64}, int64_t{100}, kNoWindow}) {
        const AttentionShape shape = {.block_size = block_size,
                                      .kv_dtype = types.kv,
                                      .q_dtype = types.q,
                                      .out_dtype = types.out};
        AttentionCase c(shape,
                        {{.first_position = 1300, .num_rows = 70, .first_key = 1152},
                         {.first_position = 1303, .first_key = 1024, .num_sinks = 4},
                         {.first_position = 1280, .num_rows = 9, .first_key = 1152, .num_sinks = 8},
                         {.first_position = 2047, .num_rows = 2, .first_key = 1920}});
        for (const auto order : {std::optional<TileOrder>{},
                                 std::optional{TileOrder::kQMajor},
                                 std::optional{TileOrder::kKMajor}}) {
          TileOptions options = c.Options();
          options.window = window;
          options.order = order;
          CAPTURE(block_size, window, order.has_value(), DTypeName(types.kv));
          CheckAgainstReference(c, shape, options);
        }
      }
    }
  }
}

// All that may differ between two runs of one text without changing a bit.
TEST_CASE("a row's bits do not depend on tiles, orders, heads, threads or splits of the work") {
  for (const Types& types : {kTypes[1], kTypes[2]}) {
    for (const int64_t window : {int64_t{200}, kNoWindow}) {
      const AttentionShape shape = {
          .num_heads = 12, .kv_dtype = types.kv, .q_dtype = types.q, .out_dtype = types.out};
      AttentionCase c(shape,
                      {{.first_position = 250, .num_rows = 90},
                       {.first_position = 700, .first_key = 256, .num_sinks = 3},
                       {.first_position = 511, .num_rows = 3},
                       {.first_position = 20}});
      TileOptions options = c.Options();
      options.window = window;
      options.split_size = 128;
      const std::vector<std::byte> expected = c.Run(options, Threads());
      for (const auto order : {std::optional<TileOrder>{},
                               std::optional{TileOrder::kQMajor},
                               std::optional{TileOrder::kKMajor}}) {
        for (const int32_t tile_size : {1, 4, 8, 16, 64, 256}) {
          for (const int32_t head_tile_size : {0, 1, 4, 5}) {
            for (const int32_t num_workers : {1, 64}) {
              options.order = order;
              options.tile_size = tile_size;
              options.head_tile_size = head_tile_size;
              options.num_workers = num_workers;
              CAPTURE(window, order.has_value(), tile_size, head_tile_size);
              CHECK(SameBits(c.Run(options, Threads()), expected));
            }
          }
        }
      }
      for (const int32_t num_threads : {1, 3, 8}) {
        ThreadPool pool(num_threads);
        CHECK(SameBits(c.Run(options, pool), expected));
      }
    }
  }
}

TEST_CASE("a row's bits do not depend on chunks, company, block size or place in the pool") {
  for (const Types& types : {kTypes[0], kTypes[2]}) {
    for (const int64_t window : {int64_t{37}, kNoWindow}) {
      AttentionShape shape = {.kv_dtype = types.kv, .q_dtype = types.q, .out_dtype = types.out};
      constexpr int32_t kLength = 300;
      AttentionCase whole(shape, {{.num_rows = kLength}});
      TileOptions options = whole.Options();
      options.window = window;
      options.split_size = 64;
      whole.Run(options, Threads());
      for (const int32_t block_size : {8, 32, 64, 256}) {
        shape.block_size = block_size;
        for (const int32_t chunk : {1, 7, 64, 100}) {
          for (int32_t first = 0; first < kLength; first += chunk) {
            // With one row, look at every 13th.
            if (chunk == 1 && first % 13 != 0) {
              continue;
            }
            const int32_t num_rows = std::min(chunk, kLength - first);
            AttentionCase part(shape,
                               {{.first_position = 77, .num_rows = 3, .seed = 5},
                                {.first_position = first, .num_rows = num_rows},
                                {.first_position = first, .seed = 6}},
                               false,
                               first);
            options.tile_size = block_size;
            part.Run(options, Threads());
            for (int32_t row = 0; row < num_rows; ++row) {
              CAPTURE(block_size, chunk, first, row);
              REQUIRE(SameBits(part.Row(3 + row), whole.Row(first + row)));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a row's bits do not depend on whether planes are dense, for any group of heads") {
  constexpr int64_t kPosition = 299;
  for (const int32_t head_dim : {64, 96, 128}) {
    for (int32_t group = 1; group <= 8; ++group) {
      AttentionShape shape = {.head_dim = head_dim,
                              .kv_dtype = DType::kBf16,
                              .q_dtype = DType::kBf16,
                              .out_dtype = DType::kF32};
      shape.num_heads = group * shape.num_kv_heads;
      AttentionCase whole(shape, {{.num_rows = kPosition + 1}});
      whole.Run(whole.Options(), Threads());
      for (const int32_t block_size : {16, 64, 256}) {
        shape.block_size = block_size;
        AttentionCase one(shape, {{.first_position = kPosition}}, false, kPosition);
        one.Run(one.Options(), Threads());
        CAPTURE(head_dim, group, block_size);
        CHECK(SameBits(one.Row(0), whole.Row(kPosition)));
      }
    }
  }
}

TEST_CASE("blocks that sequences share are read once and give the same bits") {
  const AttentionShape shape = {.num_heads = 6};
  std::vector<AttentionSequence> sequences;
  sequences.reserve(5);
  for (int32_t s = 0; s < 5; ++s) {
    sequences.push_back({.first_position = 300 + 5 * int64_t{s}, .num_rows = 1 + s % 2});
  }
  AttentionCase apart(shape, sequences, false);
  AttentionCase shared(shape, sequences, true);
  TileOptions options = apart.Options();
  options.split_size = 64;
  options.order = TileOrder::kKMajor;
  const std::vector<std::byte> expected = apart.Run(options, Threads());
  CHECK(SameBits(shared.Run(options, Threads()), expected));
  // 19 to 21 blocks each; four splits of four blocks are shared, and the rest is read by each
  // query tile that sees it.
  CHECK(shared.plan().counts.block_loads == apart.plan().counts.block_loads - 64);
  options.order.reset();
  CHECK(SameBits(shared.Run(options, Threads()), expected));
}

TEST_CASE("what a row does not see never shows, what it sees always does") {
  for (const Types& types : kTypes) {
    for (const bool is_key : {true, false}) {
      for (const float poison : {std::nanf(""), INFINITY}) {
        for (const int32_t block_size : {16, 64}) {
          const AttentionShape shape = {.block_size = block_size,
                                        .kv_dtype = types.kv,
                                        .q_dtype = types.q,
                                        .out_dtype = types.out};
          const std::vector<AttentionSequence> sequences = {{.first_position = 40, .num_rows = 80}};
          AttentionCase clean(shape, sequences);
          AttentionCase dirty(shape, sequences);
          TileOptions options = clean.Options();
          options.window = 50;
          dirty.Poison(0, 75, is_key, poison);
          clean.Run(options, Threads());
          dirty.Run(options, Threads());
          const std::vector<double> got = dirty.Output();
          for (int32_t row = 0; row < 80; ++row) {
            const int64_t position = 40 + row;
            CAPTURE(is_key, poison, block_size, position, DTypeName(types.kv));
            if (position < 75 || position >= 75 + 50) {
              REQUIRE(SameBits(dirty.Row(row), clean.Row(row)));
            } else if (!is_key || std::isnan(poison)) {
              REQUIRE(!std::isfinite(got[int64_t{row} * 256]));
              REQUIRE(!std::isfinite(got[int64_t{row} * 256 + 255]));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a power of two is right to two units in the last place") {
  std::vector<const AttentionKernel*> kernels = {&AttentionKernelF32()};
  if (AttentionKernelBf16() != nullptr) {
    kernels.push_back(AttentionKernelBf16());
  }
  for (const AttentionKernel* kernel : kernels) {
    std::vector<float> x = {0.0F, -0.0F, 1.0F, -1.0F, -126.0F};
    Random random(1);
    for (int32_t i = 0; i < 2000000; ++i) {
      x.push_back(static_cast<float>(random.Uniform(-126, 1)));
      x.push_back(static_cast<float>(-std::exp(random.Uniform(-20, 4.8))));
    }
    std::vector<float> got(x.size());
    kernel->exp2(x.data(), got.data(), static_cast<int64_t>(x.size()));
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double truth = std::exp2(static_cast<double>(x[i]));
      worst = std::max(worst, std::abs(got[i] - truth) / OneUlp(truth, DType::kF32));
    }
    CHECK(worst <= 2);
    CHECK(got[0] == 1.0F);
    CHECK(got[1] == 1.0F);
    x = {-INFINITY, -1e30F, -200.0F, std::nanf("")};
    kernel->exp2(x.data(), got.data(), 4);
    CHECK(got[0] == 0.0F);
    CHECK(got[1] == 0.0F);
    CHECK(got[2] == 0.0F);
    CHECK(std::isnan(got[3]));
  }
}

TEST_CASE("arguments that attention cannot run are named") {
  const AttentionShape shape;
  AttentionCase c(shape, {{.first_position = 5, .first_key = 0, .num_sinks = 2}});
  c.Run(c.Options(), Threads());
  const auto broken = [&](const auto& change) {
    AttentionArgs args = c.args();
    change(args);
    return CheckAttentionArgs(args) != nullptr;
  };
  CHECK_FALSE(broken([](AttentionArgs&) {}));
  CHECK(broken([](AttentionArgs& a) { a.q = nullptr; }));
  CHECK(broken([](AttentionArgs& a) { a.kv.layout.head_dim = 12; }));
  CHECK(broken([](AttentionArgs& a) { a.kv.layout.head_dim = 264; }));
  CHECK(broken([](AttentionArgs& a) { a.num_heads = 3; }));
  CHECK(broken([](AttentionArgs& a) { a.kv.layer = 2; }));
  CHECK(broken([](AttentionArgs& a) { a.q_stride = 4 * 64 - 1; }));
  CHECK(broken([](AttentionArgs& a) { a.out_stride = 0; }));
  CHECK(broken([](AttentionArgs& a) { a.kv.layout.dtype = DType::kF16; }));
  CHECK(broken([](AttentionArgs& a) { a.scale = 0; }));
  CHECK(broken([](AttentionArgs& a) { a.scale = std::nanf(""); }));
  CHECK(broken([](AttentionArgs& a) { a.angles = nullptr; }));
}

}  // namespace
}  // namespace ringserve
