#include "kernels/rmsnorm.h"

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

struct Problem {
  Problem(int32_t rows, int32_t hidden, bool with_residual) : num_rows(rows), hidden_dim(hidden) {
    Random random(3);
    x = random.NormalVector(int64_t{rows} * hidden, 4);
    weight = random.NormalVector(hidden);
    if (with_residual) {
      residual = random.NormalVector(int64_t{rows} * hidden, 4);
    }
  }

  RmsNormArgs Args() {
    return {.x = x.data(),
            .residual_in = residual.empty() ? nullptr : residual.data(),
            .weight = weight.data(),
            .num_rows = num_rows,
            .hidden_dim = hidden_dim,
            .eps = 1e-5F};
  }

  template <typename T>
  std::vector<T> Reference() {
    std::vector<T> out(x.size());
    RmsNormRef<T>(Args(), out.data());
    return out;
  }

  // On a copy, so that a problem can run again; the updated x goes to `updated` if not null.
  template <typename Out>
  std::vector<Out> Normalize(int32_t num_threads, std::vector<float>* updated = nullptr) const {
    Problem copy = *this;
    RmsNormArgs args = copy.Args();
    std::vector<Out> out(x.size());
    args.out = out.data();
    args.out_dtype = sizeof(Out) == 4 ? DType::kF32 : DType::kBf16;
    ThreadPool pool(num_threads);
    RmsNormCpu(args, pool);
    if (updated != nullptr) {
      *updated = copy.x;
    }
    return out;
  }

  // The same with only some of the rows.
  Problem Rows(int32_t first, int32_t count) const {
    Problem part = *this;
    part.num_rows = count;
    const auto cut = [&](const std::vector<float>& values) {
      return values.empty()
                 ? values
                 : std::vector<float>(values.begin() + int64_t{first} * hidden_dim,
                                      values.begin() + int64_t{first + count} * hidden_dim);
    };
    part.x = cut(x);
    part.residual = cut(residual);
    return part;
  }

  int32_t num_rows = 0;
  int32_t hidden_dim = 0;
  std::vector<float> x;
  std::vector<float> residual;
  std::vector<float> weight;
};

TEST_CASE("rows are normalized as right as plain float arithmetic does") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  for (const int32_t hidden_dim : {1, 7, 16, 17, 64, 255, 2048, 2049}) {
    for (const bool with_residual : {false, true}) {
      for (const int32_t num_rows : {1, 5}) {
        CAPTURE(hidden_dim, with_residual, num_rows);
        Problem problem(num_rows, hidden_dim, with_residual);
        const std::vector<double> truth = problem.Reference<double>();
        const std::vector<float> plain = problem.Reference<float>();
        CHECK(MaxError(problem.Normalize<float>(2), truth) <=
              2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
        CHECK(MaxError(problem.Normalize<Bf16>(2), truth) <=
              2 * MaxError(ToBf16(plain), truth) + OneUlp(MaxAbs(truth), DType::kBf16));
      }
    }
  }
}

TEST_CASE("the residual is added to x in place") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  for (const int32_t hidden_dim : {1, 19, 64}) {
    const Problem problem(3, hidden_dim, true);
    std::vector<float> expected = problem.x;
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] += problem.residual[i];
    }
    std::vector<float> updated;
    problem.Normalize<float>(2, &updated);
    CHECK(SameBits(updated, expected));
  }
}

TEST_CASE("a normalized row's bits do not depend on the other rows or on the threads") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  const Problem problem(33, 129, true);
  const std::vector<float> all = problem.Normalize<float>(1);
  CHECK(SameBits(problem.Normalize<float>(3), all));
  for (const int32_t count : {1, 2, 5, 32}) {
    const int32_t first = 33 - count;
    CHECK(SameBits(problem.Rows(first, count).Normalize<float>(2),
                   std::vector<float>(all.begin() + int64_t{first} * 129, all.end())));
  }
}

// One bad element spoils the whole of its row and nothing else.
TEST_CASE("not-a-number and overflow show in their row") {
  const UseCpuTarget use(GENERATE(from_range(CpuTargets())));
  for (const size_t at : {0, 20, 36}) {
    Problem problem(3, 37, false);
    problem.x[37 + at] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<Bf16> got = problem.Normalize<Bf16>(2);
    for (size_t i = 0; i < got.size(); ++i) {
      REQUIRE(std::isnan(ToFloat(got[i])) == (i / 37 == 1));
    }
  }
}

}  // namespace
}  // namespace ringserve
