// What the general attention kernels do beside the plain ones: sinks that are rotated at read,
// learned sinks, soft-capping, biases by position, heads of any size, rows of many sequences over
// shared keys. And rows that see all keys, which every kernel takes.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "tests/support/attention_device_case.h"
#include "tests/support/catch.h"

namespace ringserve {
namespace {

TEST_CASE("cuda attention rotates sinks as it reads them") {
  for (const int32_t head_dim : {40, 64, 96, 128, 256}) {
    for (const DType dtype : kHalfTypes) {
      for (const int32_t num_sinks : {1, 4, 64}) {
        CAPTURE(num_sinks);
        CheckAgainstReference(
            DeviceShape(8, 2, head_dim),
            {{.first_position = 700, .num_rows = 33, .first_key = 256, .num_sinks = num_sinks},
             {.first_position = 640, .first_key = 640, .num_sinks = num_sinks, .seed = 2},
             {.first_position = 90, .num_rows = 5, .seed = 3},
             {.first_position = 1000, .first_key = 64, .num_sinks = num_sinks, .seed = 4}},
            {kNoWindow},
            dtype);
      }
    }
  }
}

TEST_CASE("sinks of cuda attention may fill a block of several tiles") {
  for (const int32_t head_dim : {64, 256}) {
    AttentionShape shape = DeviceShape(4, 2, head_dim);
    shape.block_size = 256;
    CheckAgainstReference(
        shape,
        {{.first_position = 1100, .num_rows = 9, .first_key = 512, .num_sinks = 256},
         {.first_position = 900, .first_key = 256, .num_sinks = 200, .seed = 5}},
        {kNoWindow});
  }
}

TEST_CASE("cuda attention soft-caps scores and has learned sinks") {
  for (const int32_t head_dim : {64, 96, 128, 256}) {
    for (const float softcap : {0.0F, 2.0F, 50.0F}) {
      for (const bool learned : {false, true}) {
        AttentionShape shape = DeviceShape(8, 2, head_dim);
        shape.q_scale = 4;
        AttentionCase c(shape,
                        {{.first_position = 0, .num_rows = 75},
                         {.first_position = 500, .seed = 2},
                         {.first_position = 90, .num_rows = 9, .seed = 3}});
        c.args().softcap = softcap;
        if (learned) {
          c.LearnSinks(7);
        }
        CheckAgainstReference(c, {kNoWindow, 50});
        CheckAgainstReference(c, {kNoWindow}, DType::kF16);
      }
    }
  }
}

TEST_CASE("cuda attention takes heads of any multiple of eight") {
  for (const int32_t head_dim : {8, 16, 32, 40, 72, 80, 112, 120, 160, 192, 248}) {
    CheckAgainstReference(DeviceShape(6, 2, head_dim),
                          {{.first_position = 150, .num_rows = 40},
                           {.first_position = 700, .seed = 2},
                           {.first_position = 300, .num_rows = 2, .seed = 3}},
                          {kNoWindow, 100});
  }
}

TEST_CASE("cuda attention adds biases by position") {
  for (const int32_t head_dim : {32, 64, 96, 128, 256}) {
    for (const int32_t reach : {0, 20, 128, 5000}) {
      for (const float softcap : {0.0F, 5.0F}) {
        AttentionCase c(DeviceShape(6, head_dim == 64 ? 6 : 2, head_dim),
                        {{.first_position = 0, .num_rows = 75},
                         {.first_position = 500, .seed = 2},
                         {.first_position = 90, .num_rows = 9, .seed = 3},
                         {.first_position = 700, .num_rows = 40, .first_key = 448, .seed = 4}});
        c.args().softcap = softcap;
        c.BiasPositions(5, reach);
        CheckAgainstReference(c, {kNoWindow, 50});
        CheckAgainstReference(c, {kNoWindow}, DType::kF16);
        CheckAgainstReference(c, {kNoWindow}, DType::kBf16, false);
      }
    }
  }
}

// As a decoder reads what an encoder made of prompts, and an encoder its prompts.
TEST_CASE("rows of cuda attention may see keys behind them") {
  for (const int32_t head_dim : {24, 64, 96, 128, 256}) {
    for (const int32_t kv_heads : {1, 4}) {
      AttentionCase c(DeviceShape(4, kv_heads, head_dim),
                      {{.first_position = 7, .num_keys = 300},
                       {.first_position = 1000, .seed = 2, .num_keys = 1},
                       {.first_position = 3, .num_rows = 5, .seed = 3, .num_keys = 640},
                       {.first_position = 200, .num_rows = 90, .seed = 4, .num_keys = 65},
                       {.first_position = 0, .num_rows = 130, .seed = 5},
                       {.first_position = 0, .num_rows = 1, .seed = 6}});
      CheckAgainstReference(c, {kNoWindow, 10}, DType::kBf16, false);
      CheckAgainstReference(c, {kNoWindow}, DType::kF16, false);
    }
  }
}

struct Features {
  float softcap = 0;
  bool learned = false;
  int32_t num_sinks = 0;
  int32_t bias_reach = -1;  // -1: no biases
  bool causal = true;
};

// A row's words alone in a step are those among others, however its text is cut.
void CheckRowBits(const AttentionShape& shape, const Features& features) {
  constexpr int32_t kRows = 100;
  constexpr int64_t kFirst = 640;
  const int64_t first_key = features.num_sinks > 0 ? 192 : 0;
  const auto make = [&](const std::vector<AttentionSequence>& sequences, uint64_t seed) {
    auto c = std::make_unique<AttentionCase>(shape, sequences, false, seed);
    c->args().softcap = features.softcap;
    if (features.learned) {
      c->LearnSinks(7);
    }
    if (features.bias_reach >= 0) {
      c->BiasPositions(8, features.bias_reach);
    }
    return c;
  };
  const AttentionSequence text = {.first_position = kFirst,
                                  .num_rows = kRows,
                                  .first_key = first_key,
                                  .num_sinks = features.num_sinks,
                                  .num_keys = features.causal ? 0 : kFirst + kRows};
  const auto whole = make({text}, 1);
  DeviceCase whole_device(*whole);
  for (const int64_t split_size : {128, 2048}) {
    TileOptions options = Options(*whole, split_size);
    options.order = TileOrder::kQMajor;
    options.causal = features.causal;
    const auto expected = whole_device.Run(options, AttentionKernels::kPortable);
    for (const AttentionKernels kernels : Families()) {
      options.order = TileOrder::kKMajor;
      CAPTURE(shape.head_dim, split_size, features.softcap, features.learned);
      CAPTURE(features.num_sinks, features.bias_reach, features.causal);
      CAPTURE(kernels == AttentionKernels::kPortable);
      CHECK(SameBits(whole_device.Run(options, kernels), expected));
      options.order.reset();
      for (const int32_t chunk : {1, 7, 60}) {
        for (int32_t first = 0; first + chunk <= kRows; first += chunk < 60 ? 31 : 40) {
          AttentionSequence cut = text;
          cut.first_position += first;
          cut.num_rows = chunk;
          const auto part =
              make({{.first_position = 77, .num_rows = 3, .seed = 5}, cut, {.seed = 6}},
                   static_cast<uint64_t>(first + 2));
          DeviceCase part_device(*part);
          const auto got = part_device.Run(options, kernels);
          const int64_t row = int64_t{shape.num_heads} * shape.head_dim;
          CAPTURE(chunk, first);
          CHECK(std::equal(got.begin() + 3 * row,
                           got.begin() + (3 + chunk) * row,
                           expected.begin() + first * row));
        }
      }
    }
  }
}

TEST_CASE("a row's bits are its own in the general cuda kernels too") {
  for (const int32_t head_dim : {40, 64, 96, 128, 256}) {
    const AttentionShape shape = DeviceShape(8, 2, head_dim);
    CheckRowBits(shape, {.num_sinks = 4});
    CheckRowBits(shape, {.softcap = 30, .learned = true});
    CheckRowBits(shape, {.learned = true, .num_sinks = 64});
    CheckRowBits(shape, {.bias_reach = 128});
    CheckRowBits(shape, {.bias_reach = 128, .causal = false});
    CheckRowBits(shape, {.causal = false});
  }
}

// Sequences that begin alike over shared blocks, each with some blocks of its own. Biases by
// position are each row's own.
TEST_CASE("rows of many sequences over shared keys get the same bits on cuda") {
  for (const int32_t head_dim : {64, 96, 128, 256}) {
    for (const auto& [heads, kv_heads] : {std::pair{8, 2}, {4, 4}, {40, 1}}) {
      const AttentionShape shape = DeviceShape(heads, kv_heads, head_dim);
      std::vector<AttentionSequence> sequences;
      for (int32_t s = 0; s < 37; ++s) {
        sequences.push_back({.first_position = 600 + 5 * s, .num_rows = 1 + s % 2});
      }
      sequences.push_back({.first_position = 300, .num_rows = 1, .seed = 9});
      const bool biased = heads == 4;
      AttentionCase apart(shape, sequences, false);
      AttentionCase shared(shape, sequences, true);
      if (biased) {
        apart.BiasPositions(3, 500);
        shared.BiasPositions(3, 500);
      }
      DeviceCase apart_device(apart);
      DeviceCase shared_device(shared);
      for (const int64_t split_size : {128, 256, 2048}) {
        for (const int64_t window : {kNoWindow, int64_t{333}}) {
          TileOptions options = Options(apart, split_size);
          options.order = TileOrder::kKMajor;
          options.window = window;
          for (const AttentionKernels kernels : Families()) {
            CAPTURE(head_dim, heads, kv_heads, split_size, window, biased);
            const auto expected = apart_device.Run(options, kernels);
            CHECK(SameBits(shared_device.Run(options, kernels), expected));
            if (split_size == 128 && window == kNoWindow) {
              CHECK(shared.plan().counts.block_loads < apart.plan().counts.block_loads / 5);
            }
          }
        }
      }
    }
  }
}

// Short enough for compute-sanitizer: `gpu_test '[brief]'`.
TEST_CASE("a little of everything that the general cuda kernels do", "[brief]") {
  for (const int32_t head_dim : {40, 128, 256}) {
    const AttentionShape shape = DeviceShape(8, 2, head_dim);
    AttentionCase c(shape,
                    {{.first_position = 300, .num_rows = 21, .first_key = 64, .num_sinks = 5},
                     {.first_position = 400, .first_key = 128, .num_sinks = 64, .seed = 2},
                     {.first_position = 150, .num_rows = 3, .seed = 3}});
    c.args().softcap = 20;
    c.LearnSinks(3);
    CheckAgainstReference(c, {kNoWindow});
    AttentionCase biased(shape,
                         {{.first_position = 0, .num_rows = 140},
                          {.first_position = 9, .seed = 2, .num_keys = 200}});
    CheckAgainstReference(biased, {kNoWindow}, DType::kBf16, false);
    biased.BiasPositions(4, 50);
    CheckAgainstReference(biased, {kNoWindow}, DType::kBf16, false);
    std::vector<AttentionSequence> sequences;
    for (int32_t s = 0; s < 9; ++s) {
      sequences.push_back({.first_position = 270 + 9 * s});
    }
    AttentionCase apart(shape, sequences, false);
    AttentionCase shared(shape, sequences, true);
    TileOptions options = Options(apart);
    options.order = TileOrder::kKMajor;
    const auto expected = DeviceCase(apart).Run(options, AttentionKernels::kBest);
    CHECK(SameBits(DeviceCase(shared).Run(options, AttentionKernels::kBest), expected));
  }
}

TEST_CASE("sinks that the cuda kernels cannot place are named") {
  AttentionCase c(DeviceShape(4, 2, 64),
                  {{.first_position = 300, .first_key = 128, .num_sinks = 4}});
  TileOptions options = Options(c);
  options.window = 50;
  c.Plan(options);
  cuda::PackedAttentionPlan packed;
  CHECK(cuda::PackAttentionPlan(c.plan(), {.layout = c.args().kv.layout, .num_heads = 4}, packed) !=
        nullptr);
}

}  // namespace
}  // namespace ringserve
