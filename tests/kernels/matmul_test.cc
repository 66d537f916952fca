#include "kernels/matmul.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/cpu_features.h"
#include "kernels/matmul_kernel.h"
#include "kernels/matmul_layout.h"
#include "kernels/swiglu.h"
#include "kernels/thread_pool.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/cpu_targets.h"
#include "tests/support/random.h"
#include "tests/support/slab.h"

namespace ringserve {
namespace {

// A kernel of this machine: what MatMulCpu picks, or MatMulKernelFloat for one of the instruction
// sets that Highway can pick.
struct Variant {
  std::string name;
  DType dtype = DType::kF32;
  MatMulKernel kernel = nullptr;
  int64_t target = 0;  // 0: whatever Highway picks
};

std::vector<Variant> Variants() {
  std::vector<Variant> variants;
  if (HasBf16Dot()) {
    variants.push_back({"bf16 dot", DType::kBf16, MatMulKernelBf16Dot, 0});
  }
  if (HasAmxBf16()) {
    variants.push_back({"amx", DType::kBf16, MatMulKernelAmx, 0});
  }
  for (const int64_t target : CpuTargets()) {
    for (const DType dtype : {DType::kF32, DType::kBf16}) {
      variants.push_back({hwy::TargetName(target) + std::string(" ") + DTypeName(dtype),
                          dtype,
                          MatMulKernelFloat,
                          target});
    }
  }
  return variants;
}

template <typename T>
HostTensor AsTensor(const std::vector<T>& values, int64_t rows, int64_t cols, DType dtype) {
  return {reinterpret_cast<const std::byte*>(values.data()), rows, cols, dtype};
}

// x [num_rows, cols] and a packed weight [rows, cols] of one dtype, with the products on demand.
class Problem {
 public:
  Problem(int32_t num_rows, int64_t rows, int64_t cols, const Variant& variant)
      : slab_(PackedMatrixBytes(rows, cols, variant.dtype)),
        workspace_(static_cast<size_t>(MatMulWorkspaceBytes(num_rows, cols, variant.dtype))),
        kernel_(variant.kernel) {
    Random random(1);
    x_ = random.NormalVector(num_rows * cols);
    weight_ = random.NormalVector(rows * cols);
    num_rows_ = num_rows;
    rows_ = rows;
    cols_ = cols;
    dtype_ = variant.dtype;
  }

  std::vector<float>& x() { return x_; }

  std::vector<float>& weight() { return weight_; }

  // Rows [first, first + num_rows) of x by the weight.
  std::vector<float> Multiply(int32_t first,
                              int32_t num_rows,
                              int32_t num_threads,
                              bool has_workspace = true) {
    std::vector<float> out(static_cast<size_t>(num_rows * rows_ + kGuard), 7);
    MatMulArgs args = Args(num_threads);
    args.x = static_cast<const std::byte*>(args.x) + first * cols_ * DTypeBytes(dtype_);
    args.num_rows = num_rows;
    args.out = out.data();
    args.workspace = has_workspace ? workspace_.data() : nullptr;
    ThreadPool pool(num_threads);
    MatMulWith(kernel_, args, pool);
    for (int64_t i = 0; i < kGuard; ++i) {
      REQUIRE(out[static_cast<size_t>(num_rows * rows_ + i)] == 7);
    }
    out.resize(out.size() - kGuard);
    return out;
  }

  // The activated result of all rows, in one call or one after the other, as the bytes of dtype.
  // gate_up, zeros before, holds afterwards what the call left there.
  std::vector<std::byte> Activate(bool at_once,
                                  int32_t num_threads,
                                  bool has_workspace,
                                  std::vector<float>& gate_up) {
    gate_up.assign(static_cast<size_t>(num_rows_ * rows_), 0);
    const auto num_bytes = static_cast<size_t>(num_rows_ * rows_ / 2 * DTypeBytes(dtype_));
    std::vector<std::byte> out(num_bytes + kGuard, std::byte{7});
    MatMulArgs args = Args(num_threads);
    args.out = gate_up.data();
    args.workspace = has_workspace ? workspace_.data() : nullptr;
    const std::vector<float> bias(weight_.begin(), weight_.begin() + rows_);
    args.bias = bias.data();
    const SwiGluArgs activation = {.gate_up = gate_up.data(),
                                   .out = out.data(),
                                   .num_rows = num_rows_,
                                   .ffn_dim = static_cast<int32_t>(rows_ / 2),
                                   .out_dtype = dtype_};
    ThreadPool pool(num_threads);
    if (at_once) {
      MatMulSwiGluWith(kernel_, args, activation, pool);
    } else {
      MatMulWith(kernel_, args, pool);
      SwiGluCpu(activation, pool);
    }
    REQUIRE(
        std::all_of(out.end() - kGuard, out.end(), [](std::byte b) { return b == std::byte{7}; }));
    out.resize(num_bytes);
    return out;
  }

  template <typename T>
  std::vector<T> Reference() {
    std::vector<T> out(static_cast<size_t>(num_rows_ * rows_));
    MatMulRef<T>(Args(1), out.data());
    return out;
  }

 private:
  static constexpr int64_t kGuard = 64;

  // Packs anew, so that changes to x() and weight() count.
  MatMulArgs Args(int32_t num_threads) {
    ThreadPool pool(num_threads);
    const std::vector<HostTensor> parts = {AsTensor(weight_, rows_, cols_, DType::kF32)};
    MatMulArgs args;
    args.weight = PackMatrixCpu(parts, dtype_, slab_.data(), pool);
    args.num_rows = num_rows_;
    bf16_x_ = ToBf16(x_);
    args.x = dtype_ == DType::kBf16 ? static_cast<const void*>(bf16_x_.data()) : x_.data();
    return args;
  }

  Slab slab_;
  std::vector<std::byte> workspace_;
  MatMulKernel kernel_;
  std::vector<float> x_;
  std::vector<Bf16> bf16_x_;
  std::vector<float> weight_;
  int32_t num_rows_ = 0;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  DType dtype_ = DType::kF32;
};

std::vector<float> Slice(const std::vector<float>& values, int64_t first, int64_t count) {
  return {values.begin() + first, values.begin() + first + count};
}

TEST_CASE("the product is as right as plain float arithmetic") {
  const Variant variant = GENERATE(from_range(Variants()));
  const UseCpuTarget use(variant.target);
  for (const int64_t rows : {1, 15, 16, 64, 65, 200}) {
    for (const int64_t cols : {1, 2, 3, 64, 97, 704}) {
      for (const int32_t num_rows : {1, 3, 6, 13}) {
        CAPTURE(variant.name, rows, cols, num_rows);
        Problem problem(num_rows, rows, cols, variant);
        const std::vector<double> truth = problem.Reference<double>();
        const std::vector<float> plain = problem.Reference<float>();
        const std::vector<float> got = problem.Multiply(0, num_rows, 2);
        CHECK(MaxError(got, truth) <=
              2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
      }
    }
  }
}

// Decode and prefill, any company, any number of threads: the same bits.
TEST_CASE("a row's bits do not depend on the other rows or on the threads") {
  const Variant variant = GENERATE(from_range(Variants()));
  const UseCpuTarget use(variant.target);
  const auto [rows, cols] =
      GENERATE(table<int64_t, int64_t>({{100, 257}, {64, 1024}, {70, 1601}, {2090, 330}}));
  constexpr int32_t kRows = 67;
  Problem problem(kRows, rows, cols, variant);
  const std::vector<float> all = problem.Multiply(0, kRows, 1);
  for (const int32_t num_threads : {2, 5}) {
    CAPTURE(variant.name, rows, cols, num_threads);
    CHECK(SameBits(problem.Multiply(0, kRows, num_threads), all));
    CHECK(SameBits(problem.Multiply(0, kRows, num_threads, false), all));
  }
  for (const int32_t num_rows : {1, 2, 3, 4, 5, 6, 7, 8, 13, 31, 66}) {
    const int32_t first = (num_rows * 37) % (kRows - num_rows);
    CAPTURE(variant.name, rows, cols, num_rows, first);
    CHECK(
        SameBits(problem.Multiply(first, num_rows, 2), Slice(all, first * rows, num_rows * rows)));
  }
}

// Few rows and many, gates that end inside a panel, fewer panels than threads, several blocks.
TEST_CASE("a product and its activation at once give the bits of one after the other") {
  const Variant variant = GENERATE(from_range(Variants()));
  const UseCpuTarget use(variant.target);
  const auto [num_rows, ffn_dim, cols] =
      GENERATE(table<int32_t, int64_t, int64_t>({{1, 256, 64},
                                                 {31, 256, 64},
                                                 {32, 256, 97},
                                                 {67, 1088, 65},
                                                 {67, 200, 64},
                                                 {258, 320, 33},
                                                 {265, 256, 64},
                                                 {803, 256, 40}}));
  Problem problem(num_rows, 2 * ffn_dim, cols, variant);
  std::vector<float> gate_up;
  const std::vector<std::byte> expected = problem.Activate(false, 1, true, gate_up);
  for (const int32_t num_threads : {1, 2, 5}) {
    CAPTURE(variant.name, num_rows, ffn_dim, cols, num_threads);
    CHECK(problem.Activate(true, num_threads, true, gate_up) == expected);
    CHECK(problem.Activate(true, num_threads, false, gate_up) == expected);
  }
}

TEST_CASE("what AMX multiplies for many rows is activated before it is written") {
  if (!HasAmxBf16()) {
    return;
  }
  Problem problem(67, 512, 64, {"amx", DType::kBf16, MatMulKernelAmx, 0});
  std::vector<float> gate_up;
  problem.Activate(true, 2, true, gate_up);
  CHECK(gate_up == std::vector<float>(gate_up.size()));
  problem.Activate(false, 2, true, gate_up);
  CHECK(gate_up != std::vector<float>(gate_up.size()));
}

TEST_CASE("not-a-number stays in its row of x and its row of the weight") {
  const Variant variant = GENERATE(from_range(Variants()));
  const UseCpuTarget use(variant.target);
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr int64_t kRows = 67;
  constexpr int64_t kCols = 33;
  constexpr int32_t kNumRows = 9;
  Problem problem(kNumRows, kRows, kCols, variant);
  const std::vector<float> clean = problem.Multiply(0, kNumRows, 2);
  for (const int64_t col : {int64_t{0}, int64_t{17}, kCols - 1}) {
    Problem spoiled(kNumRows, kRows, kCols, variant);
    spoiled.x()[static_cast<size_t>(4 * kCols + col)] = kNan;
    spoiled.weight()[static_cast<size_t>(65 * kCols + col)] = kNan;
    const std::vector<float> got = spoiled.Multiply(0, kNumRows, 2);
    for (int64_t i = 0; i < kNumRows; ++i) {
      for (int64_t j = 0; j < kRows; ++j) {
        CAPTURE(variant.name, col, i, j);
        const auto index = static_cast<size_t>(i * kRows + j);
        if (i == 4 || j == 65) {
          REQUIRE(std::isnan(got[index]));
        } else {
          REQUIRE(got[index] == clean[index]);
        }
      }
    }
  }
}

TEST_CASE("the product picks bf16 dot products where the CPU has them") {
  CHECK(ChooseMatMulKernel(DType::kF32) == MatMulKernelFloat);
  CHECK(ChooseMatMulKernel(DType::kBf16) == (HasAmxBf16()   ? MatMulKernelAmx
                                             : HasBf16Dot() ? MatMulKernelBf16Dot
                                                            : MatMulKernelFloat));
  CHECK(!CpuKernelNames().empty());
  CHECK(UsableCpus() >= 1);
}

// More columns than are packed at a time, rows that end inside a panel, an odd last column.
TEST_CASE("packing keeps every element in its place") {
  const DType dtype = GENERATE(DType::kF32, DType::kBf16);
  const DType from = GENERATE(DType::kF32, DType::kBf16);
  constexpr int64_t kRows = 70;
  constexpr int64_t kCols = 301;
  const std::vector<Bf16> bf16 = ToBf16(Random(4).NormalVector(kRows * kCols));
  const std::vector<float> f32 = ToFloat(bf16);
  const std::vector<HostTensor> parts = {from == DType::kF32 ? AsTensor(f32, kRows, kCols, from)
                                                             : AsTensor(bf16, kRows, kCols, from)};
  const size_t num_bytes = PackedMatrixBytes(kRows, kCols, dtype);
  Slab slab(num_bytes);
  ThreadPool pool(2);
  PackMatrixCpu(parts, dtype, slab.data(), pool);
  std::vector<float> packed(num_bytes / static_cast<size_t>(DTypeBytes(dtype)), 0);
  for (size_t i = 0; i < packed.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(&packed[i], slab.data() + i * 4, 4);
    } else {
      uint16_t bits = 0;
      std::memcpy(&bits, slab.data() + i * 2, 2);
      packed[i] = ToFloat(Bf16{bits});
    }
  }
  std::vector<float> expected(packed.size());
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t col = 0; col < kCols; ++col) {
      expected[static_cast<size_t>(PackedIndex(row, col, kCols, dtype))] =
          f32[static_cast<size_t>(row * kCols + col)];
    }
  }
  CHECK(SameBits(packed, expected));
}

// Values that bf16 and f16 hold exactly, so that every path through the packing must agree.
TEST_CASE("packing stacks parts of any dtype") {
  const DType dtype = GENERATE(DType::kF32, DType::kBf16);
  constexpr int64_t kCols = 5;
  const std::vector<float> f32 = {1, -2, 3, 0.5, 8};
  const std::vector<Bf16> bf16 = ToBf16(std::vector<float>{2, 0.25, -1, 4, 6, 1, 1, 1, 1, -3});
  const std::vector<F16> f16 = {{0x3c00}, {0xc000}, {0x3800}, {0x0001}, {0x7bff}};
  const std::vector<HostTensor> parts = {AsTensor(f32, 1, kCols, DType::kF32),
                                         AsTensor(bf16, 2, kCols, DType::kBf16),
                                         AsTensor(f16, 1, kCols, DType::kF16)};
  Slab slab(PackedMatrixBytes(4, kCols, dtype));
  ThreadPool pool(2);
  MatMulArgs args;
  args.weight = PackMatrixCpu(parts, dtype, slab.data(), pool);
  REQUIRE(args.weight.rows == 4);
  REQUIRE(args.weight.cols == kCols);
  // x = the identity: the product is the weight's transpose.
  std::vector<float> identity(kCols * kCols);
  for (size_t i = 0; i < kCols; ++i) {
    identity[i * kCols + i] = 1;
  }
  const std::vector<Bf16> bf16_identity = ToBf16(identity);
  args.x = dtype == DType::kBf16 ? static_cast<const void*>(bf16_identity.data()) : identity.data();
  args.num_rows = kCols;
  std::vector<double> out(kCols * 4);
  MatMulRef<double>(args, out.data());
  const double max_f16 = dtype == DType::kF32 ? 65504 : 65536;  // rounded to bf16
  const std::vector<double> expected = {1, 2,   1,   1, -2, 0.25,    1, -2, 3,  -1,
                                        1, 0.5, 0.5, 4, 1,  0x1p-24, 8, 6,  -3, max_f16};
  CHECK(out == expected);
}

}  // namespace
}  // namespace ringserve
