#include "kernels/matmul_cuda.h"

#include <cmath>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/swiglu_cuda.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/device_memory.h"
#include "tests/support/half_words.h"
#include "tests/support/hopper_device.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

using cuda::matmul::HopperTuning;

// 16-bit words of `dtype` and the values they stand for.
struct Operand {
  std::vector<uint16_t> words;
  std::vector<float> values;
};

Operand MakeOperand(Random& random, int64_t count, float scale, DType dtype) {
  Operand operand = {.words = ToWords(random.NormalVector(count, scale), dtype), .values = {}};
  operand.values = Widen(operand.words, dtype);
  return operand;
}

struct Case {
  int32_t rows;
  int32_t n;
  int32_t k;
  DType dtype;
};

class Product {
 public:
  explicit Product(const Case& c)
      : c_(c),
        random_(static_cast<uint64_t>(c.rows * 7919 + c.n * 31 + c.k)),
        x_(MakeOperand(random_, int64_t{c.rows} * c.k, 1, c.dtype)),
        weight_(MakeOperand(random_, int64_t{c.n} * c.k, 0.1F, c.dtype)),
        device_x_(x_.words),
        device_weight_(weight_.words) {}

  // Of the first `rows` rows; unwritten results are NaN.
  std::vector<float> Run(int32_t rows, const HopperTuning& tuning = {}) const {
    const DeviceMemory out(size_t{4} * static_cast<size_t>(rows) * static_cast<size_t>(c_.n));
    out.Fill(0xff);
    CheckCuda(
        cuda::LaunchHopperMatMul(
            Hopper(),
            {.x = device_x_.as(), .weight = weight(), .out = out.as<float>(), .num_rows = rows},
            nullptr,
            tuning),
        "LaunchHopperMatMul");
    CheckCuda(cudaDeviceSynchronize(), "matmul");
    return out.Download<float>();
  }

  // By the door that backends use.
  std::vector<float> RunDevice(cuda::MatMulDevice& device,
                               int32_t rows,
                               const float* row_scales = nullptr) const {
    const DeviceMemory out(size_t{4} * static_cast<size_t>(rows) * static_cast<size_t>(c_.n));
    out.Fill(0xff);
    CheckCuda(device.Launch({.x = device_x_.as(),
                             .weight = weight(),
                             .out = out.as<float>(),
                             .num_rows = rows,
                             .row_scales = row_scales},
                            nullptr),
              "Launch");
    CheckCuda(cudaDeviceSynchronize(), "matmul");
    return out.Download<float>();
  }

  // A product, then the activation.
  std::vector<uint16_t> RunApart(int32_t rows) const { return Activate(rows, Run(rows)); }

  std::vector<uint16_t> Activate(int32_t rows, const std::vector<float>& product) const {
    const DeviceMemory gate_up(product);
    const DeviceMemory out(static_cast<size_t>(rows) * static_cast<size_t>(c_.n));
    CheckCuda(cuda::LaunchSwiGlu({.gate_up = gate_up.as<float>(),
                                  .out = out.as(),
                                  .num_rows = rows,
                                  .ffn_dim = c_.n / 2,
                                  .out_dtype = c_.dtype},
                                 nullptr),
              "LaunchSwiGlu");
    CheckCuda(cudaDeviceSynchronize(), "swiglu");
    return out.Download<uint16_t>();
  }

  std::vector<uint16_t> RunGated(int32_t rows,
                                 const HopperTuning& tuning = {},
                                 const float* row_scales = nullptr) const {
    const DeviceMemory out(static_cast<size_t>(rows) * static_cast<size_t>(c_.n));
    out.Fill(0xff);
    CheckCuda(cuda::LaunchHopperGatedMatMul(Hopper(),
                                            {.x = device_x_.as(),
                                             .weight = weight(),
                                             .out = out.as(),
                                             .num_rows = rows,
                                             .row_scales = row_scales},
                                            nullptr,
                                            tuning),
              "LaunchHopperGatedMatMul");
    CheckCuda(cudaDeviceSynchronize(), "gated matmul");
    return out.Download<uint16_t>();
  }

  // The sums of the products in double; or, if `steps`, rounded to float the way the tensor cores
  // do: toward zero after every 16 products.
  std::vector<double> Reference(bool steps) const {
    std::vector<double> out;
    for (int64_t i = 0; i < c_.rows; ++i) {
      for (int64_t j = 0; j < c_.n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < c_.k; ++k) {
          sum += double{x_.values[static_cast<size_t>(i * c_.k + k)]} *
                 double{weight_.values[static_cast<size_t>(j * c_.k + k)]};
          if (steps && k % 16 == 15) {
            auto rounded = static_cast<float>(sum);
            if (std::abs(double{rounded}) > std::abs(sum)) {
              rounded = std::nextafter(rounded, 0.0F);
            }
            sum = double{rounded};
          }
        }
        out.push_back(sum);
      }
    }
    return out;
  }

 private:
  Matrix weight() const { return {device_weight_.as(), c_.n, c_.k, c_.dtype}; }

  Case c_;
  Random random_;
  Operand x_;
  Operand weight_;
  DeviceMemory device_x_;
  DeviceMemory device_weight_;
};

template <typename T>
std::vector<T> First(const std::vector<T>& values, size_t count) {
  return {values.begin(), values.begin() + static_cast<std::ptrdiff_t>(count)};
}

}  // namespace

TEST_CASE("the product on Hopper is as exact as float32", "[cuda][matmul]") {
  if (!IsHopper()) {
    return;
  }
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    for (const auto& [rows, n, k] : {std::tuple{1, 8, 8},
                                     std::tuple{1, 520, 256},
                                     std::tuple{7, 40, 72},
                                     std::tuple{9, 96, 200},
                                     std::tuple{33, 257, 448},
                                     std::tuple{64, 304, 64},
                                     std::tuple{65, 96, 1024},
                                     std::tuple{129, 520, 128},
                                     std::tuple{300, 333, 136}}) {
      const Product product({rows, n, k, dtype});
      const std::vector<double> truth = product.Reference(false);
      const std::vector<double> plain = product.Reference(true);
      INFO("rows " << rows << " n " << n << " k " << k << " " << DTypeName(dtype));
      CHECK(MaxError(product.Run(rows), truth) <=
            2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
    }
  }
}

TEST_CASE("the portable product is as exact, with the same bits", "[cuda][matmul]") {
  std::unique_ptr<cuda::MatMulDevice> portable;
  std::unique_ptr<cuda::MatMulDevice> best;
  CheckCuda(cuda::MatMulDevice::Create(0, nullptr, portable, cuda::MatMulKernels::kPortable),
            "Create");
  CheckCuda(cuda::MatMulDevice::Create(0, nullptr, best), "Create");
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    for (const auto& [rows, n, k] :
         {std::tuple{1, 520, 256}, std::tuple{33, 257, 448}, std::tuple{140, 333, 136}}) {
      const Product product({rows, n, k, dtype});
      const std::vector<double> truth = product.Reference(false);
      const std::vector<double> plain = product.Reference(true);
      const std::vector<float> got = product.RunDevice(*portable, rows);
      INFO("rows " << rows << " n " << n << " k " << k << " " << DTypeName(dtype));
      CHECK(MaxError(got, truth) <=
            2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
      for (const int32_t fewer : {1, 17, rows}) {
        if (fewer <= rows) {
          const size_t count = static_cast<size_t>(fewer) * static_cast<size_t>(n);
          CHECK(SameBits(product.RunDevice(*portable, fewer), First(got, count)));
          CHECK(SameBits(product.RunDevice(*best, fewer), First(got, count)));
        }
      }
    }
  }
}

TEST_CASE("the product's bits do not depend on rows or tiles", "[cuda][matmul]") {
  if (!IsHopper()) {
    return;
  }
  for (const auto& [n, k] : {std::pair{4096, 4096}, std::pair{1000, 1416}, std::pair{6144, 256}}) {
    const Product product({300, n, k, DType::kBf16});
    const std::vector<float> all = product.Run(300);
    for (const int32_t rows : {1, 2, 8, 9, 16, 17, 32, 64, 65, 128, 129, 256}) {
      INFO("rows " << rows << " n " << n << " k " << k);
      CHECK(SameBits(product.Run(rows),
                     First(all, static_cast<size_t>(rows) * static_cast<size_t>(n))));
    }
    for (const HopperTuning& tuning :
         {HopperTuning{.cluster = 4, .tile_columns = 32, .groups = 1},
          HopperTuning{.cluster = 2, .tile_columns = 176, .groups = 1},
          HopperTuning{.cluster = 1, .tile_columns = 256, .groups = 1},
          HopperTuning{.cluster = 1, .tile_columns = 40, .groups = 2},
          HopperTuning{.cluster = 4, .tile_columns = 128, .groups = 2}}) {
      INFO("columns " << tuning.tile_columns << " n " << n << " k " << k);
      CHECK(SameBits(product.Run(300, tuning), all));
      CHECK(SameBits(product.Run(20, tuning),
                     First(all, static_cast<size_t>(20) * static_cast<size_t>(n))));
    }
  }
}

TEST_CASE("a row's results are multiplied by its scale", "[cuda][matmul]") {
  std::unique_ptr<cuda::MatMulDevice> portable;
  std::unique_ptr<cuda::MatMulDevice> best;
  CheckCuda(cuda::MatMulDevice::Create(0, nullptr, portable, cuda::MatMulKernels::kPortable),
            "Create");
  CheckCuda(cuda::MatMulDevice::Create(0, nullptr, best), "Create");
  Random random(5);
  for (const auto& [n, k] : {std::pair{4096, 256}, std::pair{1424, 328}}) {
    const Product product({200, n, k, DType::kBf16});
    const std::vector<float> scales = random.NormalVector(200, 1);
    const DeviceMemory device_scales(scales);
    for (const int32_t rows : {1, 8, 9, 32, 33, 64, 65, 200}) {
      INFO("rows " << rows << " n " << n << " k " << k);
      std::vector<float> expected = product.RunDevice(*best, rows);
      for (size_t i = 0; i < expected.size(); ++i) {
        expected[i] *= scales[i / static_cast<size_t>(n)];
      }
      CHECK(SameBits(product.RunDevice(*best, rows, device_scales.as<float>()), expected));
      CHECK(SameBits(product.RunDevice(*portable, rows, device_scales.as<float>()), expected));
      if (IsHopper()) {
        CHECK(SameBits(product.RunGated(rows, {}, device_scales.as<float>()),
                       product.Activate(rows, expected)));
      }
    }
  }
}

TEST_CASE("the gated product has the bits of product and activation", "[cuda][matmul]") {
  if (!IsHopper()) {
    return;
  }
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const Product product({200, 1424, 328, dtype});
    const std::vector<uint16_t> all = product.RunApart(200);
    CHECK(SameBits(product.RunGated(200), all));
    for (const int32_t rows : {1, 8, 30, 64, 128}) {
      INFO("rows " << rows);
      CHECK(SameBits(product.RunGated(rows), First(all, static_cast<size_t>(rows) * 712)));
    }
    CHECK(SameBits(product.RunGated(200, {.cluster = 2, .tile_columns = 48, .groups = 1}), all));
  }
}

}  // namespace ringserve
