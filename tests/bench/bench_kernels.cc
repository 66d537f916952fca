#include "tests/bench/bench_kernels.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <thread>

#include <fmt/format.h>

#include "kernels/matmul.h"
#include "kernels/thread_pool.h"
#include "tests/bench/ceiling.h"

namespace ringserve {
namespace {

constexpr int64_t kHugePage = int64_t{1} << 21;

template <typename Body>
double Seconds(const Body& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The four matrix products of a layer, several layers, and rows to multiply.
class Layers {
 public:
  Layers(const MatMulShape& shape, ThreadPool& pool)
      : shape_(shape),
        weights_(NumBytes(shape)),
        x_(RowBytes(shape) * std::max(shape.hidden_dim, shape.ffn_dim)),
        workspace_(std::max<int64_t>(
            1,
            MatMulWorkspaceBytes(
                shape.prefill_rows, std::max(shape.hidden_dim, shape.ffn_dim), shape.dtype))),
        out_(RowBytes(shape) * 2 * std::max({2 * shape.ffn_dim, shape.qkv_dim, shape.hidden_dim})) {
    // One block of ordinary numbers, again and again: contents do not matter, subnormals would.
    const int64_t block = int64_t{64} << 10;
    FillBlock(block);
    pool.ParallelFor(weights_.num_bytes() / block, 16, [&](int64_t first, int64_t last) {
      for (int64_t i = std::max<int64_t>(first, 1); i < last; ++i) {
        std::memcpy(weights_.data() + i * block, weights_.data(), static_cast<size_t>(block));
      }
    });
    std::memcpy(x_.data(), weights_.data(), static_cast<size_t>(std::min(block, x_.num_bytes())));
    std::byte* next = weights_.data();
    for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
      for (const auto& [rows, cols] : Matrices(shape)) {
        matrices_.push_back({next, rows, cols, shape.dtype});
        next += PackedMatrixBytes(rows, cols, shape.dtype);
      }
    }
  }

  const HugeBuffer& weights() const { return weights_; }

  void Multiply(int32_t num_rows, ThreadPool& pool) const {
    for (const Matrix& weight : matrices_) {
      MatMulArgs args;
      args.x = x_.data();
      args.weight = weight;
      args.out = reinterpret_cast<float*>(out_.data());
      args.num_rows = num_rows;
      args.workspace = workspace_.data();
      MatMulCpu(args, pool);
    }
  }

  double num_bytes() const { return NumElements() * DTypeBytes(shape_.dtype); }

  double num_flops(int32_t num_rows) const { return 2 * NumElements() * num_rows; }

 private:
  using Size = std::pair<int64_t, int64_t>;

  static std::vector<Size> Matrices(const MatMulShape& shape) {
    return {{shape.qkv_dim, shape.hidden_dim},
            {shape.hidden_dim, shape.hidden_dim},
            {int64_t{2} * shape.ffn_dim, shape.hidden_dim},
            {shape.hidden_dim, shape.ffn_dim}};
  }

  static int64_t NumBytes(const MatMulShape& shape) {
    int64_t bytes = 0;
    for (const auto& [rows, cols] : Matrices(shape)) {
      bytes += static_cast<int64_t>(PackedMatrixBytes(rows, cols, shape.dtype));
    }
    return bytes * shape.num_layers;
  }

  static int64_t RowBytes(const MatMulShape& shape) {
    return int64_t{std::max(1, shape.prefill_rows)} * DTypeBytes(shape.dtype);
  }

  double NumElements() const {
    double count = 0;
    for (const Matrix& matrix : matrices_) {
      count += static_cast<double>(matrix.rows) * static_cast<double>(matrix.cols);
    }
    return count;
  }

  void FillBlock(int64_t num_bytes) const {
    for (int64_t i = 0; i < num_bytes / DTypeBytes(shape_.dtype); ++i) {
      const float value = static_cast<float>(i * 7919 % 1009 - 504) / 504;
      if (shape_.dtype == DType::kBf16) {
        reinterpret_cast<Bf16*>(weights_.data())[i] = ToBf16(value);
      } else {
        reinterpret_cast<float*>(weights_.data())[i] = value;
      }
    }
  }

  MatMulShape shape_;
  HugeBuffer weights_;
  HugeBuffer x_;
  HugeBuffer workspace_;
  HugeBuffer out_;
  std::vector<Matrix> matrices_;
};

double ProductGflops(DType dtype, ThreadPool& pool) {
  double flops = 0;
  const double seconds = Seconds([&] { flops = MultiplyInRegisters(dtype, pool); });
  return flops / seconds / 1e9;
}

// A thread that keeps a CPU busy as long as it lives.
class BusyCore {
 public:
  explicit BusyCore(int cpu) {
    thread_ = std::thread([this] {
      while (!stopping_.load(std::memory_order_relaxed)) {
      }
    });
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<size_t>(cpu), &set);
    pthread_setaffinity_np(thread_.native_handle(), sizeof(set), &set);
  }

  ~BusyCore() {
    stopping_ = true;
    thread_.join();
  }

  BusyCore(const BusyCore&) = delete;
  BusyCore& operator=(const BusyCore&) = delete;

 private:
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

std::vector<int> AllowedCpus() {
  cpu_set_t set;
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(static_cast<size_t>(cpu), &set)) {
        cpus.push_back(cpu);
      }
    }
  }
  return cpus;
}

}  // namespace

double Median(std::vector<double> values) {
  if (values.empty()) {
    return 0;
  }
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double BenchSeries::MedianRatio() const {
  std::vector<double> ratios;
  for (size_t i = 0; i < speed.size(); ++i) {
    ratios.push_back(speed[i] / ceiling[i]);
  }
  return Median(ratios);
}

HugeBuffer::HugeBuffer(int64_t num_bytes)
    : num_bytes_(RoundUp(std::max<int64_t>(num_bytes, 1), kHugePage)) {
  // Room to align by hand: mmap aligns to small pages only.
  void* memory = mmap(nullptr,
                      static_cast<size_t>(num_bytes_ + kHugePage),
                      PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS,
                      -1,
                      0);
  if (memory == MAP_FAILED) {
    throw std::bad_alloc();
  }
  base_ = static_cast<std::byte*>(memory);
  data_ = base_ + (kHugePage - reinterpret_cast<intptr_t>(base_) % kHugePage) % kHugePage;
  // Advice: without it everything works, slower.
  madvise(data_, static_cast<size_t>(num_bytes_), MADV_HUGEPAGE);
}

HugeBuffer::~HugeBuffer() {
  munmap(base_, static_cast<size_t>(num_bytes_ + kHugePage));
}

double ReadGbps(const HugeBuffer& memory, ThreadPool& pool) {
  double best = 0;
  for (const int32_t num_streams : {1, 2, 4}) {
    const double seconds =
        Seconds([&] { ReadAll(memory.data(), memory.num_bytes(), num_streams, pool); });
    best = std::max(best, static_cast<double>(memory.num_bytes()) / seconds / 1e9);
  }
  return best;
}

std::vector<BenchSeries> BenchMatMul(const MatMulShape& shape,
                                     int32_t num_rounds,
                                     ThreadPool& pool) {
  const Layers layers(shape, pool);
  BenchSeries decode = {"decode, 1 row", "GB/s", {}, {}};
  BenchSeries prefill = {fmt::format("prefill, {} rows", shape.prefill_rows), "GFLOP/s", {}, {}};
  for (int32_t round = 0; round < num_rounds; ++round) {
    const double before = ReadGbps(layers.weights(), pool);
    double seconds = Seconds([&] { layers.Multiply(1, pool); });
    decode.ceiling.push_back(std::max(before, ReadGbps(layers.weights(), pool)));
    decode.speed.push_back(layers.num_bytes() / seconds / 1e9);
    prefill.ceiling.push_back(ProductGflops(shape.dtype, pool));
    seconds = Seconds([&] { layers.Multiply(shape.prefill_rows, pool); });
    prefill.speed.push_back(layers.num_flops(shape.prefill_rows) / seconds / 1e9);
  }
  return {decode, prefill};
}

BenchSeries BenchTakenCore(const MatMulShape& shape, int32_t num_rounds, int32_t num_threads) {
  ThreadPool one(1);
  ThreadPool all(num_threads);
  const Layers layers(shape, all);
  const std::vector<int> cpus = AllowedCpus();
  BenchSeries series = {"decode with a core taken", "GB/s", {}, {}};
  for (int32_t round = 0; round < num_rounds; ++round) {
    double seconds = Seconds([&] { layers.Multiply(1, one); });
    series.ceiling.push_back(layers.num_bytes() / seconds / 1e9);
    const BusyCore busy(cpus[static_cast<size_t>(round) % cpus.size()]);
    constexpr int32_t kPasses = 20;
    seconds = Seconds([&] {
      for (int32_t pass = 0; pass < kPasses; ++pass) {
        layers.Multiply(1, all);
      }
    });
    series.speed.push_back(kPasses * layers.num_bytes() / seconds / 1e9);
  }
  return series;
}

std::string FormatSeries(const BenchSeries& series) {
  const double speed = Median(series.speed);
  const double ceiling = Median(series.ceiling);
  return fmt::format("{:<28} {:8.1f} of {:8.1f} {:<8} {:5.1f} % ({:.1f} % of the medians)",
                     series.name,
                     speed,
                     ceiling,
                     series.unit,
                     100 * series.MedianRatio(),
                     100 * speed / ceiling);
}

}  // namespace ringserve
