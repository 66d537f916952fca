// The ops that only some families of models need, against their references in float64.
#include <cmath>
#include <deque>
#include <vector>

#include "kernels/activation.h"
#include "kernels/layernorm.h"
#include "kernels/matmul.h"
#include "kernels/moe.h"
#include "kernels/rope.h"
#include "kernels/softcap.h"
#include "kernels/thread_pool.h"
#include "tests/support/attention_case.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/cpu_targets.h"
#include "tests/support/slab.h"

namespace ringserve {
namespace {

TEST_CASE("every activation is as right as plain float arithmetic") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  ThreadPool pool(2);
  for (const Activation activation : {Activation::kSilu,
                                      Activation::kGelu,
                                      Activation::kGeluTanh,
                                      Activation::kRelu,
                                      Activation::kClampedSilu}) {
    for (const bool gated : {true, false}) {
      for (const int32_t ffn_dim : {1, 17, 704}) {
        if (activation == Activation::kClampedSilu && !gated) {
          continue;
        }
        CAPTURE(static_cast<int>(activation), gated, ffn_dim);
        const std::vector<float> in = Random(5).NormalVector(int64_t{6} * ffn_dim, 4);
        std::vector<float> got(static_cast<size_t>(3 * ffn_dim));
        ActivationArgs args = {.in = in.data(),
                               .out = got.data(),
                               .num_rows = 3,
                               .ffn_dim = ffn_dim,
                               .activation = activation,
                               .gated = gated,
                               .out_dtype = DType::kF32};
        ActivationCpu(args, pool);
        std::vector<double> truth(got.size());
        std::vector<float> plain(got.size());
        ActivationRef(args, truth.data());
        ActivationRef(args, plain.data());
        CHECK(MaxError(got, truth) <=
              2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
        std::vector<Bf16> rounded(got.size());
        args.out = rounded.data();
        args.out_dtype = DType::kBf16;
        ActivationCpu(args, pool);
        CHECK(SameBits(rounded, ToBf16(got)));
      }
    }
  }
}

TEST_CASE("layer norm is as right as plain float arithmetic, in place of nothing but x") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  ThreadPool pool(2);
  for (const int32_t hidden_dim : {1, 7, 48, 768}) {
    CAPTURE(hidden_dim);
    Random random(7);
    std::vector<float> x = random.NormalVector(int64_t{5} * hidden_dim, 3);
    for (float& value : x) {
      value += 10;  // a mean that matters
    }
    const std::vector<float> residual = random.NormalVector(int64_t{5} * hidden_dim);
    const std::vector<float> weight = random.NormalVector(hidden_dim);
    const std::vector<float> bias = random.NormalVector(hidden_dim);
    std::vector<float> got(x.size());
    LayerNormArgs args = {.x = x.data(),
                          .residual_in = residual.data(),
                          .weight = weight.data(),
                          .bias = bias.data(),
                          .out = got.data(),
                          .num_rows = 5,
                          .hidden_dim = hidden_dim,
                          .eps = 1e-5F,
                          .out_dtype = DType::kF32};
    std::vector<double> truth(got.size());
    std::vector<float> plain(got.size());
    LayerNormRef(args, truth.data());
    LayerNormRef(args, plain.data());
    std::vector<float> sum = x;
    for (size_t i = 0; i < sum.size(); ++i) {
      sum[i] += residual[i];
    }
    LayerNormCpu(args, pool);
    CHECK(MaxError(got, truth) <= 2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
    CHECK(SameBits(x, sum));
  }
}

TEST_CASE("soft-capping bends large logits and keeps small ones") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  ThreadPool pool(2);
  std::vector<float> x;
  for (int i = -400; i <= 400; ++i) {
    x.push_back(static_cast<float>(i) * 0.37F);
  }
  std::vector<float> got = x;
  SoftcapCpu({got.data(), 1, static_cast<int32_t>(got.size()), 30.0F}, pool);
  for (size_t i = 0; i < x.size(); ++i) {
    const double truth = 30.0 * std::tanh(static_cast<double>(x[i]) / 30.0);
    CHECK(std::abs(static_cast<double>(got[i]) - truth) <= 1e-6 * std::abs(truth));
  }
}

TEST_CASE("scores are soft-capped, biased by distance and joined by learned sinks") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  ThreadPool pool(2);
  const DType dtype = GENERATE(DType::kBf16, DType::kF32);
  AttentionCase attention({.head_dim = 32, .kv_dtype = dtype, .q_dtype = dtype, .q_scale = 3},
                          {{.first_position = 0, .num_rows = 75},
                           {.first_position = 200, .num_rows = 1, .seed = 2},
                           {.first_position = 90, .num_rows = 9, .seed = 3}});
  const std::vector<float> sinks = {0.5F, -3.0F, 4.0F, 1.0F};
  constexpr int32_t kReach = 20;
  const std::vector<float> bias = Random(3).NormalVector(4 * (2 * kReach + 1));
  attention.args().softcap = GENERATE(0.0F, 2.0F);
  attention.args().sink_logits = GENERATE(false, true) ? sinks.data() : nullptr;
  if (GENERATE(false, true)) {
    attention.args().position_bias = bias.data();
    attention.args().bias_reach = kReach;
  }
  TileOptions options = attention.Options();
  options.causal = GENERATE(true, false);
  options.window = GENERATE(int64_t{kNoWindow}, int64_t{13});
  options.split_size = 64;
  attention.Run(options, pool);
  CHECK(CheckAttentionArgs(attention.args()) == nullptr);
  const std::vector<double> truth = attention.Reference<double>(DType::kF32);
  const std::vector<float> plain = attention.Reference<float>(dtype);
  CHECK(MaxError(attention.Output(), truth) <=
        2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
}

TEST_CASE("without a mask a row sees every key, and has the same bits however the rows are cut") {
  ThreadPool pool(2);
  const DType dtype = GENERATE(DType::kBf16, DType::kF32);
  AttentionCase attention({.head_dim = 40, .kv_dtype = dtype, .q_dtype = dtype},
                          {{.first_position = 0, .num_rows = 150},
                           {.first_position = 0, .num_rows = 1, .seed = 2},
                           {.first_position = 70, .num_rows = 3, .seed = 3}});
  TileOptions options = attention.Options();
  options.causal = false;
  options.split_size = 64;
  options.order = TileOrder::kQMajor;
  const std::vector<std::byte> q_major = attention.Run(options, pool);
  CHECK(MaxError(attention.Output(), attention.Reference<double>(DType::kF32)) <=
        2 * MaxError(attention.Reference<float>(dtype), attention.Reference<double>(DType::kF32)) +
            OneUlp(1.0, DType::kF32));
  for (const TileOrder order : {TileOrder::kQMajor, TileOrder::kKMajor}) {
    for (const int32_t tile_size : {1, 8, 16}) {
      CAPTURE(tile_size);
      options.order = order;
      options.tile_size = tile_size;
      CHECK(attention.Run(options, pool) == q_major);
    }
  }
}

TEST_CASE("a bias is added to every row of a product") {
  ThreadPool pool(2);
  Random random(9);
  const int64_t rows = 70;
  const int64_t cols = 24;
  const std::vector<float> weight = random.NormalVector(rows * cols);
  const std::vector<float> x = random.NormalVector(3 * cols);
  const std::vector<float> bias = random.NormalVector(rows);
  Slab slab(PackedMatrixBytes(rows, cols, DType::kF32));
  const HostTensor tensor = {
      reinterpret_cast<const std::byte*>(weight.data()), rows, cols, DType::kF32};
  const Matrix matrix = PackMatrixCpu({&tensor, 1}, DType::kF32, slab.data(), pool);
  std::vector<float> plain(3 * rows);
  std::vector<float> biased(3 * rows);
  MatMulCpu({x.data(), matrix, plain.data(), 3}, pool);
  MatMulCpu({x.data(), matrix, biased.data(), 3, bias.data()}, pool);
  for (size_t i = 0; i < plain.size(); ++i) {
    plain[i] += bias[i % rows];
  }
  CHECK(SameBits(biased, plain));
}

TEST_CASE("rotation can grow, and leaves pairs without a frequency alone") {
  ThreadPool pool(1);
  const std::vector<int64_t> positions = {0, 5};
  const std::vector<double> frequencies = {1.0, 0.0};
  std::vector<float> angles(8);
  RopeAnglesCpu({.positions = positions.data(),
                 .frequencies = frequencies.data(),
                 .angles = angles.data(),
                 .num_rows = 2,
                 .head_dim = 4,
                 .magnitude = 1.5},
                pool);
  CHECK(angles == std::vector<float>{1.5F,
                                     0,
                                     1,
                                     0,
                                     static_cast<float>(std::cos(5.0) * 1.5),
                                     static_cast<float>(std::sin(5.0) * 1.5),
                                     1,
                                     0});
}

TEST_CASE("a router takes the largest, the first of equals") {
  const std::vector<float> logits = {1, 3, 2, 3};
  std::vector<int32_t> experts(2);
  std::vector<float> weights(2);
  RouteRow(logits.data(), 4, true, experts, weights);
  CHECK(experts == std::vector<int32_t>{1, 3});
  CHECK(weights == std::vector<float>{0.5F, 0.5F});
  RouteRow(logits.data(), 4, false, experts, weights);
  const double total = 2 + std::exp(-1.0) + std::exp(-2.0);
  CHECK(weights[0] == static_cast<float>(1 / total));
}

// Against the same products one expert and one row at a time.
TEST_CASE("rows get the weighted sum of their experts, whoever else is in the step") {
  ThreadPool pool(2);
  constexpr int32_t kHidden = 16;
  constexpr int32_t kFfn = 8;
  constexpr int32_t kExperts = 5;
  Random random(21);
  std::deque<Slab> slabs;
  const auto pack = [&](int64_t rows, int64_t cols) {
    const std::vector<float> values = random.NormalVector(rows * cols, 0.3F);
    Slab& slab = slabs.emplace_back(PackedMatrixBytes(rows, cols, DType::kF32));
    const HostTensor tensor = {
        reinterpret_cast<const std::byte*>(values.data()), rows, cols, DType::kF32};
    return PackMatrixCpu({&tensor, 1}, DType::kF32, slab.data(), pool);
  };
  std::vector<ExpertWeights> experts(kExperts);
  for (ExpertWeights& expert : experts) {
    expert.gate_up = pack(2 * kFfn, kHidden);
    expert.down = pack(kHidden, kFfn);
  }
  constexpr int32_t kRows = 33;
  const std::vector<float> x = random.NormalVector(kRows * kHidden);
  const std::vector<float> logits = random.NormalVector(kRows * kExperts);
  std::vector<std::byte> workspace(
      static_cast<size_t>(ExpertsWorkspaceBytes(kRows, 2, kHidden, kFfn, DType::kF32)));
  const auto run = [&](int32_t first, int32_t num_rows) {
    std::vector<float> out(static_cast<size_t>(num_rows * kHidden));
    ExpertsCpu({.router_logits = logits.data() + first * kExperts,
                .x = x.data() + first * kHidden,
                .out = out.data(),
                .experts = experts,
                .workspace = workspace.data(),
                .num_rows = num_rows,
                .experts_per_token = 2,
                .hidden_dim = kHidden,
                .ffn_dim = kFfn,
                .dtype = DType::kF32},
               pool);
    return out;
  };
  const std::vector<float> together = run(0, kRows);
  for (int32_t row = 0; row < kRows; ++row) {
    const std::vector<float> alone = run(row, 1);
    CHECK(SameBits(alone,
                   std::vector<float>(together.begin() + row * kHidden,
                                      together.begin() + (row + 1) * kHidden)));
    // By hand, expert by expert.
    std::vector<int32_t> chosen(2);
    std::vector<float> weights(2);
    RouteRow(logits.data() + row * kExperts, kExperts, true, chosen, weights);
    std::vector<float> sum(kHidden);
    for (size_t i = 0; i < 2; ++i) {
      const ExpertWeights& expert = experts[static_cast<size_t>(chosen[i])];
      std::vector<float> inner(2 * kFfn);
      std::vector<float> activated(kFfn);
      std::vector<float> out(kHidden);
      MatMulCpu({x.data() + row * kHidden, expert.gate_up, inner.data(), 1}, pool);
      ActivationCpu({.in = inner.data(),
                     .out = activated.data(),
                     .num_rows = 1,
                     .ffn_dim = kFfn,
                     .out_dtype = DType::kF32},
                    pool);
      MatMulCpu({activated.data(), expert.down, out.data(), 1}, pool);
      for (size_t j = 0; j < kHidden; ++j) {
        sum[j] += weights[i] * out[j];
      }
    }
    CHECK(MaxError(alone, sum) <= 1e-6);
  }
}

}  // namespace
}  // namespace ringserve
