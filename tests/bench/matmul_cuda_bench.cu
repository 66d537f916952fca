// Speed of the matrix products of a Llama-3-8B layer on CUDA, bf16, beside cuBLAS and the ceilings
// of the same run.
//   matmul_cuda_bench [few] [many] [gated] [price] [sweep] [middle] [--no-cublas]
// price: all products of a step of Llama-3-8B, and the same by the fastest that cuBLAS has.
// Weights rotate past the second-level cache. Times are medians of graph replays of back-to-back
// products, each of which may ask for its first weights before the one before it has ended.
#include <cstring>
#include <string>

#include "kernels/matmul_hopper_cuda.h"
#include "tests/bench/cublas_lt.cuh"
#include "tests/bench/cuda_bench.cuh"

namespace ringserve::bench {
namespace {

constexpr int64_t kPoolBytes = int64_t{4} << 30;

struct Shape {
  int32_t n;
  int32_t k;
};

constexpr Shape kShapes[] = {
    {6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}};

struct Bench {
  cuda::HopperDevice device;
  DeviceMemory pool{kPoolBytes};
  DeviceMemory x{size_t{8192} * 14336 * 2};
  DeviceMemory out{size_t{8192} * 28672 * 4};
  DeviceMemory cublas_out{size_t{8192} * 28672 * 4};
  CuBlas cublas;
  Ceilings ceilings;
  bool use_cublas = true;
  bool hot = false;  // one copy of each weight

  // Copies of a weight to rotate through.
  int32_t Copies(const Shape& shape) const {
    const int64_t bytes = int64_t{2} * shape.n * shape.k;
    return static_cast<int32_t>(
        std::clamp<int64_t>(CeilDiv<int64_t>(int64_t{500} << 20, bytes), 2, kPoolBytes / bytes));
  }

  const std::byte* Weight(const Shape& shape, int32_t i) const {
    return pool.as() + (hot ? 0 : int64_t{2} * shape.n * shape.k * (i % Copies(shape)));
  }

  void Ours(const Shape& shape,
            int32_t rows,
            int32_t i,
            cudaStream_t stream,
            const cuda::matmul::HopperTuning& tuning = {}) {
    CheckCuda(cuda::LaunchHopperMatMul(device,
                                       {.x = x.as(),
                                        .weight = {Weight(shape, i), shape.n, shape.k},
                                        .out = out.as<float>(),
                                        .num_rows = rows},
                                       stream,
                                       tuning),
              "matmul");
  }

  void Gated(const Shape& shape, int32_t rows, int32_t i, cudaStream_t stream) {
    CheckCuda(cuda::LaunchHopperGatedMatMul(device,
                                            {.x = x.as(),
                                             .weight = {Weight(shape, i), shape.n, shape.k},
                                             .out = out.as(),
                                             .num_rows = rows},
                                            stream),
              "gated matmul");
  }

  void Theirs(const Shape& shape, int32_t rows, int32_t i, cudaStream_t stream) {
    cublas.Product(x.as<__nv_bfloat16>(),
                   reinterpret_cast<const __nv_bfloat16*>(Weight(shape, i)),
                   cublas_out.as(),
                   CUDA_R_32F,
                   rows,
                   shape.n,
                   shape.k,
                   stream);
  }

  int32_t Count(const Shape& shape, int32_t rows) const {
    const double work = 2.0 * rows * shape.n * shape.k / 6e14 + 2.0 * shape.n * shape.k / 4e12;
    return std::max(2, std::min(24, static_cast<int32_t>(0.004 / work)));
  }

  void Line(const Shape& shape, int32_t rows) {
    const double bytes = 2.0 * shape.n * shape.k;
    const double flops = 2.0 * rows * shape.n * shape.k;
    const int32_t count = Count(shape, rows);
    const double us =
        Measure(count, [&](int32_t i, cudaStream_t stream) { Ours(shape, rows, i, stream); });
    std::printf("  %5d -> %6d x %4d  %8.2f us %5.2f TB/s %5.1f %% %6.1f TFLOP/s %5.1f %%",
                shape.k,
                shape.n,
                rows,
                us,
                bytes / us / 1e6,
                bytes / us / 1e3 / ceilings.read_gbs * 100,
                flops / us / 1e6,
                flops / us / 1e6 / ceilings.product_tflops * 100);
    if (use_cublas && cublas.found()) {
      const double theirs =
          Measure(count, [&](int32_t i, cudaStream_t stream) { Theirs(shape, rows, i, stream); });
      Ours(shape, rows, 0, nullptr);
      Theirs(shape, rows, 0, nullptr);
      CheckCuda(cudaDeviceSynchronize(), "products");
      std::printf("  cuBLAS %8.2f us, x%.2f %s", theirs, theirs / us, SameAsTheirs(shape, rows));
    }
    std::printf("\n");
    std::fflush(stdout);
  }

  const char* SameAsTheirs(const Shape& shape, int32_t rows) const {
    const size_t count = std::min<size_t>(size_t{static_cast<uint32_t>(rows)} * shape.n, 1 << 20);
    std::vector<float> a(count);
    std::vector<float> b(count);
    CheckCuda(cudaMemcpy(a.data(), out.as(), 4 * count, cudaMemcpyDeviceToHost), "copy");
    CheckCuda(cudaMemcpy(b.data(), cublas_out.as(), 4 * count, cudaMemcpyDeviceToHost), "copy");
    double worst = 0;
    size_t differing = 0;
    for (size_t i = 0; i < count; ++i) {
      worst = std::max(worst, std::isnan(a[i]) ? 1e9 : static_cast<double>(std::abs(a[i] - b[i])));
      differing += a[i] != b[i];
    }
    static char text[80];
    std::snprintf(
        text, sizeof text, "%s (max %.1e)", differing == 0 ? "same bits" : "other bits", worst);
    return text;
  }

  void GatedLine(const Shape& shape, int32_t rows) {
    const double us = Measure(
        Count(shape, rows), [&](int32_t i, cudaStream_t stream) { Gated(shape, rows, i, stream); });
    const double flops = 2.0 * rows * shape.n * shape.k;
    std::printf("  gated %5d -> %6d x %4d  %8.2f us %5.2f TB/s %6.1f TFLOP/s %5.1f %%\n",
                shape.k,
                shape.n,
                rows,
                us,
                2.0 * shape.n * shape.k / us / 1e6,
                flops / us / 1e6,
                flops / us / 1e6 / ceilings.product_tflops * 100);
  }

  void Sweep(const Shape& shape, int32_t rows, const std::vector<cuda::matmul::HopperTuning>& all) {
    for (const auto& t : all) {
      const double us = Measure(
          Count(shape, rows),
          [&](int32_t i, cudaStream_t stream) { Ours(shape, rows, i, stream, t); },
          3);
      std::printf(
          "  %5d -> %6d x %4d cluster %d columns %3d shared %3d K groups %d ahead %2d M: %7.2f "
          "us "
          "%5.2f TB/s %6.1f TFLOP/s\n",
          shape.k,
          shape.n,
          rows,
          t.cluster,
          t.tile_columns,
          t.shared_bytes / 1024,
          t.groups,
          t.ahead_bytes >> 20,
          us,
          2.0 * shape.n * shape.k / us / 1e6,
          2.0 * rows * shape.n * shape.k / us / 1e6);
    }
    std::fflush(stdout);
  }
};

// What equal bits for every number of rows cost.
void Price(Bench& bench) {
  constexpr int32_t kLayers = 32;
  FastestProduct fastest;
  if (!fastest.found()) {
    std::printf("price: no libcublasLt.so.13\n");
    return;
  }
  for (const int32_t rows : {1, 32, 256, 8192}) {
    double ours = 0;
    double theirs = 0;
    std::printf("  %4d rows, us, ours | fastest:", rows);
    for (const Shape& shape : kShapes) {
      const bool is_head = shape.n > 100000;
      if (is_head && rows > 256) {
        continue;  // of the last row of a prompt only
      }
      const int32_t count = bench.Count(shape, rows);
      const double us = Measure(
          count, [&](int32_t i, cudaStream_t stream) { bench.Ours(shape, rows, i, stream); });
      const double fastest_us = fastest.Microseconds(
          bench.x.as(),
          [&](int32_t i) { return bench.Weight(shape, i); },
          bench.cublas_out.as(),
          rows,
          shape.n,
          shape.k,
          count);
      ours += us * (is_head ? 1 : kLayers);
      theirs += fastest_us * (is_head ? 1 : kLayers);
      std::printf("  %.1f | %.1f", us, fastest_us);
    }
    std::printf("; a step %.3f | %.3f ms, x%.3f\n", ours * 1e-3, theirs * 1e-3, ours / theirs);
    std::fflush(stdout);
  }
}

// Tilings of products of 64 to 256 rows.
void SweepMiddle(Bench& bench) {
  for (const Shape& shape : kShapes) {
    for (const int32_t rows : {64, 128, 256}) {
      std::vector<cuda::matmul::HopperTuning> all = {{}};
      for (const int32_t columns : {32, 48, 64, 96, 128, 192, 224, 256}) {
        for (const int32_t groups : {1, 2}) {
          for (const int32_t cluster : {1, 2}) {
            const bool many_tiles = shape.n / columns > 600 && columns < 128;
            if ((groups == 1 || rows > 64) && !many_tiles) {
              all.push_back({.cluster = cluster, .tile_columns = columns, .groups = groups});
            }
          }
        }
      }
      bench.Line(shape, rows);
      bench.Sweep(shape, rows, all);
    }
  }
}

int Main(int argc, char** argv) {
  Bench bench;
  CheckCuda(cuda::FindHopperDevice(0, bench.device), "device");
  if (bench.device.encode_tensor_map == nullptr) {
    std::printf("SKIPPED: not an sm_90 device\n");
    return 0;
  }
  bool few = false;
  bool many = false;
  bool gated = false;
  bool sweep = false;
  bool middle = false;
  bool price = false;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    few |= arg == "few";
    many |= arg == "many";
    gated |= arg == "gated";
    sweep |= arg == "sweep";
    middle |= arg == "middle";
    price |= arg == "price";
    bench.use_cublas &= arg != "--no-cublas";
  }
  if (!few && !many && !gated && !sweep && !middle && !price) {
    few = many = gated = price = true;
  }
  FillRandom<<<4096, 256>>>(bench.pool.as<__nv_bfloat16>(), kPoolBytes / 2, 5, 0.05F);
  FillRandom<<<4096, 256>>>(bench.x.as<__nv_bfloat16>(), bench.x.bytes() / 2, 6, 1.0F);
  CheckCuda(cudaDeviceSynchronize(), "fill");
  bench.ceilings = MeasureCeilings(bench.pool, bench.device.num_sms, bench.cublas);
  if (few) {
    for (const Shape& shape : kShapes) {
      for (const int32_t rows : {1, 8, 16, 32, 64}) {
        bench.Line(shape, rows);
      }
    }
  }
  if (many) {
    for (const Shape& shape : kShapes) {
      for (const int32_t rows : {128, 256, 512, 2048, 8192}) {
        if (int64_t{rows} * shape.n <= int64_t{8192} * 28672) {
          bench.Line(shape, rows);
        }
      }
    }
  }
  if (gated) {
    for (const int32_t rows : {1, 32, 64, 256, 2048, 8192}) {
      bench.GatedLine({28672, 4096}, rows);
    }
  }
  if (price) {
    Price(bench);
  }
  if (middle) {
    SweepMiddle(bench);
  }
  if (sweep) {
    // All of the weight in the second-level cache: what the chain of products along K takes.
    for (const int32_t rows : {1, 16, 32, 64}) {
      std::printf("hot ");
      bench.hot = true;
      bench.Sweep({2048, 4096}, rows, {{}});
      bench.Sweep({4096, 4096}, rows, {{}});
      bench.hot = false;
    }
    for (const Shape& shape : kShapes) {
      for (const int32_t rows : {1, 16, 32, 64}) {
        bench.Sweep(shape,
                    rows,
                    {{.ahead_bytes = 1},
                     {.ahead_bytes = 8 << 20},
                     {.ahead_bytes = 16 << 20},
                     {.ahead_bytes = 32 << 20},
                     {.groups = 1, .ahead_bytes = 1}});
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace ringserve::bench

int main(int argc, char** argv) {
  return ringserve::bench::Main(argc, argv);
}
