#include "kernels/swiglu.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/thread_pool.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/cpu_targets.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

template <typename Out>
std::vector<Out> SwiGlu(const std::vector<float>& gate_up,
                        int32_t num_rows,
                        int32_t ffn_dim,
                        int32_t num_threads) {
  std::vector<Out> out(static_cast<size_t>(num_rows) * static_cast<size_t>(ffn_dim));
  ThreadPool pool(num_threads);
  SwiGluCpu({.gate_up = gate_up.data(),
             .out = out.data(),
             .num_rows = num_rows,
             .ffn_dim = ffn_dim,
             .out_dtype = sizeof(Out) == 4 ? DType::kF32 : DType::kBf16},
            pool);
  return out;
}

template <typename T>
std::vector<T> Reference(const std::vector<float>& gate_up, int32_t num_rows, int32_t ffn_dim) {
  std::vector<T> out(static_cast<size_t>(num_rows) * static_cast<size_t>(ffn_dim));
  SwiGluRef<T>({.gate_up = gate_up.data(), .num_rows = num_rows, .ffn_dim = ffn_dim}, out.data());
  return out;
}

TEST_CASE("the activation is as right as plain float arithmetic") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  for (const int32_t ffn_dim : {1, 3, 16, 33, 704}) {
    for (const int32_t num_rows : {1, 5}) {
      CAPTURE(ffn_dim, num_rows);
      const std::vector<float> gate_up = Random(5).NormalVector(int64_t{2} * num_rows * ffn_dim, 4);
      const std::vector<double> truth = Reference<double>(gate_up, num_rows, ffn_dim);
      const std::vector<float> plain = Reference<float>(gate_up, num_rows, ffn_dim);
      CHECK(MaxError(SwiGlu<float>(gate_up, num_rows, ffn_dim, 2), truth) <=
            2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
      CHECK(MaxError(SwiGlu<Bf16>(gate_up, num_rows, ffn_dim, 2), truth) <=
            2 * MaxError(ToBf16(plain), truth) + OneUlp(MaxAbs(truth), DType::kBf16));
    }
  }
}

// Over the whole range of gates, each value by its own measure: relative error, not the largest.
TEST_CASE("every gate is right to a few units in the last place") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  std::vector<float> gate_up(4800);
  for (size_t i = 0; i < gate_up.size(); ++i) {
    gate_up[i] = -87 + 0.0371F * static_cast<float>(i);
  }
  const auto ffn_dim = static_cast<int32_t>(gate_up.size());
  gate_up.resize(gate_up.size() * 2, 1);
  const std::vector<double> truth = Reference<double>(gate_up, 1, ffn_dim);
  const std::vector<float> got = SwiGlu<float>(gate_up, 1, ffn_dim, 1);
  for (size_t i = 0; i < got.size(); ++i) {
    CAPTURE(gate_up[i]);
    REQUIRE(std::abs(got[i] - truth[i]) <= 4 * OneUlp(truth[i], DType::kF32));
  }
}

TEST_CASE("extreme gates are what the limit is, and not-a-number stays") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  // The same values at every place of a vector and of its tail.
  for (int32_t lead = 0; lead < 20; ++lead) {
    std::vector<float> gates(static_cast<size_t>(lead), 1);
    gates.insert(gates.end(), {-200, -1e30F, 200, 3e38F, kInf, kNan, 0, 1});
    std::vector<float> gate_up = gates;
    gate_up.resize(gates.size() * 2, 1);
    gate_up.back() = kNan;
    const auto ffn_dim = static_cast<int32_t>(gates.size());
    const std::vector<float> got = SwiGlu<float>(gate_up, 1, ffn_dim, 1);
    const float* value = got.data() + lead;
    CAPTURE(lead);
    CHECK(std::abs(value[0]) <= 1e-30F);
    CHECK(std::abs(value[1]) <= 1e-30F);
    CHECK(value[2] == 200);
    CHECK(value[3] == 3e38F);
    CHECK(value[4] == kInf);
    CHECK(std::isnan(value[5]));
    CHECK(value[6] == 0);
    CHECK(std::isnan(value[7]));
    const std::vector<Bf16> rounded = SwiGlu<Bf16>(gate_up, 1, ffn_dim, 1);
    CHECK(std::isnan(ToFloat(rounded[static_cast<size_t>(lead) + 5])));
    CHECK(std::isnan(ToFloat(rounded[static_cast<size_t>(lead) + 7])));
  }
}

TEST_CASE("an element's bits do not depend on where it stands or on the threads") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  constexpr int64_t kRows = 9;
  constexpr int64_t kFfn = 101;
  const std::vector<float> gate_up = Random(6).NormalVector(2 * kRows * kFfn, 3);
  const std::vector<float> all = SwiGlu<float>(gate_up, kRows, kFfn, 1);
  CHECK(SameBits(SwiGlu<float>(gate_up, kRows, kFfn, 3), all));
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t col = 0; col < kFfn; col += 7) {
      const float* gate = gate_up.data() + row * 2 * kFfn + col;
      const std::vector<float> alone = SwiGlu<float>({gate[0], gate[kFfn]}, 1, 1, 1);
      REQUIRE(SameBits(alone, {all[static_cast<size_t>(row * kFfn + col)]}));
    }
  }
}

}  // namespace
}  // namespace ringserve
