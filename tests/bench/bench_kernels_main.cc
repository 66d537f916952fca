// bench_kernels [threads [rounds]]: the CPU's matrix products against their ceilings.
#include <cstdio>
#include <cstdlib>

#include "kernels/cpu_features.h"
#include "kernels/thread_pool.h"
#include "tests/bench/bench_kernels.h"

int main(int argc, char** argv) {
  using namespace ringserve;  // NOLINT(google-build-using-namespace): a program of one function
  const int32_t num_threads = argc > 1 ? std::atoi(argv[1]) : UsableCpus();
  const int32_t num_rounds = argc > 2 ? std::atoi(argv[2]) : 9;
  std::printf("%s, %d threads\n", CpuKernelNames().c_str(), num_threads);
  ThreadPool pool(num_threads);
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    MatMulShape shape;
    shape.dtype = dtype;
    std::printf("%s\n", DTypeName(dtype));
    for (const BenchSeries& series : BenchMatMul(shape, num_rounds, pool)) {
      std::printf("  %s\n", FormatSeries(series).c_str());
    }
  }
  const BenchSeries taken = BenchTakenCore({}, num_rounds, num_threads);
  std::printf("  %s\n  each round:", FormatSeries(taken).c_str());
  for (size_t i = 0; i < taken.speed.size(); ++i) {
    std::printf(" %.2f", taken.speed[i] / taken.ceiling[i]);
  }
  std::printf("\n");
  return 0;
}
