// The small kernels that only some families of models need, on CUDA, against their references in
// float64.
#include <cmath>
#include <memory>
#include <vector>

#include "kernels/activation_cuda.h"
#include "kernels/bias_cuda.h"
#include "kernels/embed_cuda.h"
#include "kernels/fetch_cuda.h"
#include "kernels/layernorm_cuda.h"
#include "kernels/matmul_cuda.h"
#include "kernels/rmsnorm_cuda.h"
#include "kernels/rope_cuda.h"
#include "kernels/softcap_cuda.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/device_memory.h"
#include "tests/support/half_words.h"
#include "tests/support/random.h"

namespace ringserve {

TEST_CASE("every activation on CUDA is exact to rounding", "[cuda][brief]") {
  for (const Activation activation : {Activation::kSilu,
                                      Activation::kGelu,
                                      Activation::kGeluTanh,
                                      Activation::kRelu,
                                      Activation::kClampedSilu}) {
    for (const bool gated : {true, false}) {
      for (const int32_t ffn_dim : {1, 100, 704}) {
        if (activation == Activation::kClampedSilu && !gated) {
          continue;
        }
        for (const DType dtype : kHalfTypes) {
          CAPTURE(static_cast<int>(activation), gated, ffn_dim, DTypeName(dtype));
          const std::vector<float> in = Random(5).NormalVector(int64_t{6} * ffn_dim, 4);
          ActivationArgs args = {.in = in.data(),
                                 .num_rows = 3,
                                 .ffn_dim = ffn_dim,
                                 .activation = activation,
                                 .gated = gated,
                                 .out_dtype = dtype};
          std::vector<double> truth(static_cast<size_t>(3 * ffn_dim));
          std::vector<float> plain(truth.size());
          ActivationRef(args, truth.data());
          ActivationRef(args, plain.data());
          const DeviceMemory device_in(in);
          const DeviceMemory out(2 * truth.size());
          out.Fill(0xff);
          args.in = device_in.as<float>();
          args.out = out.as();
          CheckCuda(cuda::LaunchActivation(args, nullptr), "LaunchActivation");
          CHECK(MaxError(Widen(out.Download<uint16_t>(), dtype), truth) <=
                2 * MaxError(Round(plain, dtype), truth) + OneUlp(MaxAbs(truth), dtype));
        }
      }
    }
  }
}

TEST_CASE("layer norm on CUDA is exact to rounding, row by row", "[cuda]") {
  for (const DType dtype : kHalfTypes) {
    for (const int32_t hidden_dim : {4, 48, 768, 4096, 16384}) {
      CAPTURE(hidden_dim, DTypeName(dtype));
      constexpr int32_t kRows = 5;
      Random random(7);
      std::vector<float> x = random.NormalVector(int64_t{kRows} * hidden_dim, 3);
      for (float& value : x) {
        value += 10;  // a mean that matters
      }
      const std::vector<float> residual = random.NormalVector(int64_t{kRows} * hidden_dim);
      const std::vector<float> weight = random.NormalVector(hidden_dim);
      const std::vector<float> bias = random.NormalVector(hidden_dim);
      LayerNormArgs args = {.x = x.data(),
                            .residual_in = residual.data(),
                            .weight = weight.data(),
                            .bias = bias.data(),
                            .num_rows = kRows,
                            .hidden_dim = hidden_dim,
                            .eps = 1e-5F,
                            .out_dtype = dtype};
      std::vector<double> truth(x.size());
      std::vector<float> plain(x.size());
      LayerNormRef(args, truth.data());
      LayerNormRef(args, plain.data());
      const DeviceMemory device_residual(residual);
      const DeviceMemory device_weight(weight);
      const DeviceMemory device_bias(bias);
      const auto run = [&](int32_t first, int32_t num_rows, std::vector<float>& updated) {
        const DeviceMemory device_x(x);
        const DeviceMemory out(2 * static_cast<size_t>(num_rows) * static_cast<size_t>(hidden_dim));
        out.Fill(0xff);
        LayerNormArgs on_device = args;
        on_device.x = device_x.as<float>() + int64_t{first} * hidden_dim;
        on_device.residual_in = device_residual.as<float>() + int64_t{first} * hidden_dim;
        on_device.weight = device_weight.as<float>();
        on_device.bias = device_bias.as<float>();
        on_device.out = out.as();
        on_device.num_rows = num_rows;
        CheckCuda(cuda::LaunchLayerNorm(on_device, nullptr), "LaunchLayerNorm");
        updated = device_x.Download<float>();
        return out.Download<uint16_t>();
      };
      std::vector<float> updated;
      const std::vector<uint16_t> got = run(0, kRows, updated);
      CHECK(MaxError(Widen(got, dtype), truth) <=
            2 * MaxError(Round(plain, dtype), truth) + OneUlp(MaxAbs(truth), dtype));
      std::vector<float> sum = x;
      for (size_t i = 0; i < sum.size(); ++i) {
        sum[i] += residual[i];
      }
      CHECK(SameBits(updated, sum));
      const std::vector<uint16_t> alone = run(2, 1, updated);
      CHECK(SameBits(
          alone,
          std::vector<uint16_t>(got.begin() + 2 * hidden_dim, got.begin() + 3 * hidden_dim)));
    }
  }
}

TEST_CASE("layer norm on CUDA may end in float32, in the place of its input", "[cuda]") {
  for (const int32_t hidden_dim : {4, 768, 16384}) {
    CAPTURE(hidden_dim);
    constexpr int32_t kRows = 3;
    Random random(7);
    std::vector<float> x = random.NormalVector(int64_t{kRows} * hidden_dim, 3);
    const std::vector<float> weight = random.NormalVector(hidden_dim);
    const std::vector<float> bias = random.NormalVector(hidden_dim);
    LayerNormArgs args = {.x = x.data(),
                          .weight = weight.data(),
                          .bias = bias.data(),
                          .num_rows = kRows,
                          .hidden_dim = hidden_dim,
                          .eps = 1e-5F,
                          .out_dtype = DType::kF32};
    std::vector<double> truth(x.size());
    std::vector<float> plain(x.size());
    LayerNormRef(args, truth.data());
    LayerNormRef(args, plain.data());
    const DeviceMemory device_x(x);
    const DeviceMemory device_weight(weight);
    const DeviceMemory device_bias(bias);
    args.x = device_x.as<float>();
    args.weight = device_weight.as<float>();
    args.bias = device_bias.as<float>();
    args.out = device_x.as();
    CheckCuda(cuda::LaunchLayerNorm(args, nullptr), "LaunchLayerNorm");
    CHECK(MaxError(device_x.Download<float>(), truth) <=
          2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
  }
}

TEST_CASE("the norm on CUDA also gives floats, in place", "[cuda][brief]") {
  constexpr int32_t kRows = 3;
  for (const int32_t hidden_dim : {64, 5120}) {
    Random random(9);
    std::vector<float> x = random.NormalVector(int64_t{kRows} * hidden_dim, 2);
    const std::vector<float> weight = random.NormalVector(hidden_dim);
    RmsNormArgs args = {.x = x.data(),
                        .weight = weight.data(),
                        .num_rows = kRows,
                        .hidden_dim = hidden_dim,
                        .eps = 1e-6F,
                        .out_dtype = DType::kF32};
    std::vector<double> truth(x.size());
    std::vector<float> plain(x.size());
    RmsNormRef(args, truth.data());
    RmsNormRef(args, plain.data());
    const DeviceMemory device_x(x);
    const DeviceMemory device_weight(weight);
    args.x = device_x.as<float>();
    args.out = device_x.as();
    args.weight = device_weight.as<float>();
    CheckCuda(cuda::LaunchRmsNorm(args, nullptr), "LaunchRmsNorm");
    CHECK(MaxError(device_x.Download<float>(), truth) <=
          2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
  }
}

TEST_CASE("soft-capping and biases on CUDA", "[cuda][brief]") {
  Random random(3);
  constexpr int32_t kRows = 3;
  constexpr int32_t kSize = 515;
  const std::vector<float> x = random.NormalVector(int64_t{kRows} * kSize, 40);
  const std::vector<float> bias = random.NormalVector(kSize);
  const DeviceMemory capped(x);
  const DeviceMemory biased(x);
  const DeviceMemory device_bias(bias);
  CheckCuda(cuda::LaunchSoftcap({capped.as<float>(), kRows, kSize, 30.0F}, nullptr), "softcap");
  CheckCuda(cuda::LaunchBias({biased.as<float>(), device_bias.as<float>(), kRows, kSize}, nullptr),
            "bias");
  const std::vector<float> got = capped.Download<float>();
  std::vector<float> sum = x;
  for (size_t i = 0; i < x.size(); ++i) {
    const double truth = 30.0 * std::tanh(static_cast<double>(x[i]) / 30.0);
    REQUIRE(std::abs(static_cast<double>(got[i]) - truth) <= 1e-6 * std::abs(truth));
    sum[i] += bias[i % kSize];
  }
  CHECK(SameBits(biased.Download<float>(), sum));
}

TEST_CASE("products on CUDA take weights of any even width", "[cuda][brief]") {
  for (const int32_t cols : {2, 6, 100, 110, 702}) {
    for (const DType dtype : kHalfTypes) {
      CAPTURE(cols, DTypeName(dtype));
      constexpr int32_t kFeatures = 67;
      constexpr int32_t kRows = 70;
      Random random(static_cast<uint64_t>(cols));
      const std::vector<float> x = Round(random.NormalVector(int64_t{kRows} * cols), dtype);
      const std::vector<float> weight =
          Round(random.NormalVector(int64_t{kFeatures} * cols), dtype);
      // Tensor cores add sixteen products exactly and cut the sum off.
      std::vector<double> truth;
      std::vector<double> plain;
      for (int32_t i = 0; i < kRows * kFeatures; ++i) {
        double sum = 0;
        double cut = 0;
        for (int32_t k = 0; k < cols; ++k) {
          const double product =
              static_cast<double>(x[static_cast<size_t>(i / kFeatures * cols + k)]) *
              static_cast<double>(weight[static_cast<size_t>(i % kFeatures * cols + k)]);
          sum += product;
          cut += product;
          if (k % 16 == 15) {
            const auto rounded = static_cast<float>(cut);
            const bool is_above = std::abs(static_cast<double>(rounded)) > std::abs(cut);
            cut = static_cast<double>(is_above ? std::nextafter(rounded, 0.0F) : rounded);
          }
        }
        truth.push_back(sum);
        plain.push_back(cut);
      }
      const DeviceMemory device_x(ToWords(x, dtype));
      const DeviceMemory device_weight(ToWords(weight, dtype));
      const DeviceMemory out(truth.size() * sizeof(float));
      for (const auto kernels : {cuda::MatMulKernels::kBest, cuda::MatMulKernels::kPortable}) {
        std::unique_ptr<cuda::MatMulDevice> device;
        CheckCuda(cuda::MatMulDevice::Create(0, nullptr, device, kernels), "Create");
        const Matrix matrix = {device_weight.as(), kFeatures, cols, dtype};
        out.Fill(0xff);
        CheckCuda(
            device->Launch(
                {.x = device_x.as(), .weight = matrix, .out = out.as<float>(), .num_rows = kRows},
                nullptr),
            "Launch");
        const std::vector<float> got = out.Download<float>();
        CHECK(MaxError(got, truth) <=
              2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
        const DeviceMemory row(kFeatures * sizeof(float));
        CheckCuda(device->Launch({.x = device_x.as<uint16_t>() + 5 * cols,
                                  .weight = matrix,
                                  .out = row.as<float>(),
                                  .num_rows = 1},
                                 nullptr),
                  "Launch");
        const auto first = got.begin() + 5 * kFeatures;
        CHECK(SameBits(row.Download<float>(), std::vector<float>(first, first + kFeatures)));
      }
    }
  }
}

TEST_CASE("arrays in pinned memory are fetched", "[cuda][brief]") {
  for (const size_t count : {4, 1000, 100000, 1 << 20}) {
    uint32_t* pinned = nullptr;
    CheckCuda(cudaHostAlloc(&pinned, count * 4, cudaHostAllocDefault), "cudaHostAlloc");
    Random random(count);
    std::vector<uint32_t> expected(count + 4, 0xffffffffU);
    for (size_t i = 0; i < count; ++i) {
      expected[i] = pinned[i] = static_cast<uint32_t>(random.Bits());
    }
    const DeviceMemory out((count + 4) * 4);
    out.Fill(0xff);
    CheckCuda(cuda::LaunchFetch(out.as(),
                                reinterpret_cast<const std::byte*>(pinned),
                                static_cast<int64_t>(count * 4),
                                nullptr),
              "LaunchFetch");
    CHECK(SameBits(out.Download<uint32_t>(), expected));
    cudaFreeHost(pinned);
  }
}

TEST_CASE("rows of a table are scaled, and added to what is there, on CUDA", "[cuda][brief]") {
  Random random(13);
  constexpr int32_t kHidden = 1032;
  const std::vector<float> table = random.NormalVector(4 * kHidden);
  const std::vector<float> before = random.NormalVector(2 * kHidden);
  const DeviceMemory device_table(table);
  const DeviceMemory ids(std::vector<int32_t>{3, 1});
  for (const bool accumulate : {false, true}) {
    const DeviceMemory out(before);
    CheckCuda(cuda::LaunchEmbed({.token_ids = ids.as<int32_t>(),
                                 .table = device_table.as(),
                                 .out = out.as<float>(),
                                 .num_rows = 2,
                                 .hidden_dim = kHidden,
                                 .vocab_size = 4,
                                 .table_dtype = DType::kF32,
                                 .scale = 1.5F,
                                 .accumulate = accumulate},
                                nullptr,
                                nullptr),
              "LaunchEmbed");
    std::vector<float> expected;
    for (int32_t i = 0; i < 2 * kHidden; ++i) {
      const float scaled = table[static_cast<size_t>((i < kHidden ? 3 : 0) * kHidden + i)] * 1.5F;
      expected.push_back(accumulate ? before[static_cast<size_t>(i)] + scaled : scaled);
    }
    CHECK(SameBits(out.Download<float>(), expected));
  }
}

TEST_CASE("rotation on CUDA can grow, and leaves pairs without a frequency alone", "[cuda]") {
  const DeviceMemory positions(std::vector<int64_t>{0, 5});
  const DeviceMemory frequencies(std::vector<double>{1.0, 0.0, 0.5, 0.0});
  const DeviceMemory angles(2 * 8 * sizeof(float));
  CheckCuda(cuda::LaunchRopeAngles({.positions = positions.as<int64_t>(),
                                    .frequencies = frequencies.as<double>(),
                                    .angles = angles.as<float>(),
                                    .num_rows = 2,
                                    .head_dim = 8,
                                    .magnitude = 1.5},
                                   nullptr),
            "LaunchRopeAngles");
  const auto grown = [](double value) { return static_cast<float>(value * 1.5); };
  const std::vector<float> expected = {1.5F,
                                       0,
                                       1,
                                       0,
                                       1.5F,
                                       0,
                                       1,
                                       0,
                                       grown(std::cos(5.0)),
                                       grown(std::sin(5.0)),
                                       1,
                                       0,
                                       grown(std::cos(2.5)),
                                       grown(std::sin(2.5)),
                                       1,
                                       0};
  CHECK(MaxError(angles.Download<float>(), expected) <= OneUlp(1.5, DType::kF32));
}

// Queries and keys [num_rows, heads, head_dim], each head normalised in double.
std::vector<float> NormedHeads(const std::vector<float>& qkv,
                               int32_t num_all,
                               int32_t head_dim,
                               const std::vector<const float*>& weights,
                               float eps) {
  std::vector<float> normed = qkv;
  for (size_t first = 0; first < qkv.size(); first += static_cast<size_t>(head_dim)) {
    const size_t head = first / static_cast<size_t>(head_dim) % static_cast<size_t>(num_all);
    double squares = 0;
    for (int32_t i = 0; i < head_dim; ++i) {
      squares += static_cast<double>(qkv[first + i]) * static_cast<double>(qkv[first + i]);
    }
    const double scale = 1 / std::sqrt(squares / head_dim + static_cast<double>(eps));
    for (int32_t i = 0; weights[head] != nullptr && i < head_dim; ++i) {
      normed[first + i] = static_cast<float>(static_cast<double>(qkv[first + i]) * scale *
                                             static_cast<double>(weights[head][i]));
    }
  }
  return normed;
}

TEST_CASE("heads on CUDA are normalised before they are rotated", "[cuda][brief]") {
  constexpr int32_t kRows = 5;
  constexpr float kEps = 1e-6F;
  for (const int32_t head_dim : {16, 40, 64, 128, 256}) {
    Random random(static_cast<uint64_t>(head_dim));
    const std::vector<float> qkv = random.NormalVector(int64_t{kRows} * 4 * head_dim, 3);
    const std::vector<float> angles = random.NormalVector(int64_t{kRows} * head_dim);
    const std::vector<float> q_norm = random.NormalVector(head_dim);
    const std::vector<float> k_norm = random.NormalVector(head_dim);
    const std::vector<float> normed =
        NormedHeads(qkv, 4, head_dim, {q_norm.data(), q_norm.data(), k_norm.data(), nullptr}, kEps);
    RopeAppendArgs args;
    args.qkv = normed.data();
    args.angles = angles.data();
    args.kv.layout = {.block_size = 8, .num_layers = 1, .num_kv_heads = 1, .head_dim = head_dim};
    args.num_rows = kRows;
    args.num_heads = 2;
    std::vector<double> truth(qkv.size());
    std::vector<float> plain(qkv.size());
    RopeRef(args, truth.data());
    RopeRef(args, plain.data());
    const DeviceMemory device_qkv(qkv);
    const DeviceMemory device_angles(angles);
    const DeviceMemory device_q_norm(q_norm);
    const DeviceMemory device_k_norm(k_norm);
    const DeviceMemory slots(std::vector<int64_t>{0, 1, 2, 3, 4});
    const DeviceMemory q(size_t{2} * kRows * 2 * static_cast<size_t>(head_dim));
    const DeviceMemory kv(static_cast<size_t>(args.kv.layout.block_bytes()));
    kv.Fill(0xff);
    args.qkv = device_qkv.as<float>();
    args.angles = device_angles.as<float>();
    args.slots = slots.as<int64_t>();
    args.q = q.as();
    args.kv.pool = kv.as();
    args.q_norm = device_q_norm.as<float>();
    args.k_norm = device_k_norm.as<float>();
    args.norm_eps = kEps;
    CheckCuda(cuda::LaunchRopeAppend(args, nullptr), "LaunchRopeAppend");
    const std::vector<uint16_t> queries = q.Download<uint16_t>();
    const std::vector<uint16_t> pool = kv.Download<uint16_t>();
    const auto values = static_cast<size_t>(args.kv.layout.plane_bytes() / 2);
    std::vector<float> got;
    for (size_t row = 0; row < kRows; ++row) {
      const auto width = static_cast<size_t>(head_dim);
      for (size_t i = 0; i < 4 * width; ++i) {
        const size_t in_head = row * width + i % width;
        got.push_back(FromWord(i < 2 * width   ? queries[row * 2 * width + i]
                               : i < 3 * width ? pool[in_head]
                                               : pool[values + in_head],
                               DType::kBf16));
      }
    }
    CAPTURE(head_dim);
    CHECK(MaxError(got, truth) <=
          2 * MaxError(Round(plain, DType::kBf16), truth) + OneUlp(MaxAbs(truth), DType::kBf16));
  }
}

}  // namespace ringserve
