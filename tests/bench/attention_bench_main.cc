// attention_bench [threads]: attention alone, decode and prefill.
#include <cstdio>
#include <cstdlib>

#include "kernels/cpu_features.h"
#include "tests/bench/attention_bench.h"

int main(int argc, char** argv) {
  using namespace ringserve;  // NOLINT(google-build-using-namespace): a main
  ThreadPool pool(argc > 1 ? std::atoi(argv[1]) : UsableCpus());
  std::printf("kernels %s, threads %d\n", CpuKernelNames().c_str(), pool.num_threads());
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    for (const int32_t head_dim : {64, 128}) {
      const AttentionBenchShape shape = {.head_dim = head_dim, .dtype = dtype};
      const DecodeAttentionResult decode = MeasureDecodeAttention(shape, 8192, 9, pool);
      std::printf("decode  %s head_dim %3d, 8k keys: %5.1f GB/s, %3.0f %% of the %.1f GB/s read\n",
                  DTypeName(dtype),
                  head_dim,
                  decode.bytes_per_second / 1e9,
                  100 * decode.bytes_per_second / decode.read_bandwidth,
                  decode.read_bandwidth / 1e9);
      for (const int64_t num_keys : {512, 2048, 8192}) {
        std::printf("prefill %s head_dim %3d, 512 rows of %4lld keys: %4.0f GFLOP/s\n",
                    DTypeName(dtype),
                    head_dim,
                    static_cast<long long>(num_keys),
                    MeasurePrefillAttention(shape, 512, num_keys, 3, pool) / 1e9);
      }
    }
  }
  return 0;
}
