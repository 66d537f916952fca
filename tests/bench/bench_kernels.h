// How fast the matrix products of a Llama-like model run here, beside the ceilings of the same
// machine in the same minute: machines that share their memory with others drift by a factor of two
// within seconds, so a speed means something only next to a ceiling measured right before it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/types.h"

namespace ringserve {

class ThreadPool;

struct MatMulShape {
  int32_t hidden_dim = 2048;
  int32_t ffn_dim = 8192;
  int32_t qkv_dim = 3072;  // all heads and KV heads together
  int32_t num_layers = 4;  // more than the caches hold
  int32_t prefill_rows = 512;
  DType dtype = DType::kBf16;
};

// One speed and its ceiling, round by round.
struct BenchSeries {
  std::string name;
  std::string unit;
  std::vector<double> speed;
  std::vector<double> ceiling;

  // The median over rounds of speed / ceiling.
  double MedianRatio() const;
};

double Median(std::vector<double> values);

// Memory for benchmarks, in huge pages where the system grants them.
class HugeBuffer {
 public:
  explicit HugeBuffer(int64_t num_bytes);
  ~HugeBuffer();
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;

  std::byte* data() const { return data_; }

  int64_t num_bytes() const { return num_bytes_; }

 private:
  std::byte* base_;
  std::byte* data_;
  int64_t num_bytes_;
};

// GB/s of reading all of it, well past every cache: the best of one stream and several for each
// thread, since machines differ in what they like. One reading may come out at half of it: the pool
// leaves out a worker that was late for a while. So a ceiling is the better of one taken right
// before the speed and one right after.
double ReadGbps(const HugeBuffer& memory, ThreadPool& pool);

// Decode (one row, GB/s of weights against reading) and prefill (GFLOP/s against multiplying in
// registers) of all matrix products of the layers.
std::vector<BenchSeries> BenchMatMul(const MatMulShape& shape,
                                     int32_t num_rounds,
                                     ThreadPool& pool);

// Decode with all of `num_threads` threads while a thread that never sleeps is pinned to one of the
// CPUs, against decode with one thread on a machine at rest.
BenchSeries BenchTakenCore(const MatMulShape& shape, int32_t num_rounds, int32_t num_threads);

// One line: name, median speed, median ceiling, the median of the rounds' shares in percent, and
// what the two medians taken apart come to. Where these differ, the machine drifted.
std::string FormatSeries(const BenchSeries& series);

}  // namespace ringserve
