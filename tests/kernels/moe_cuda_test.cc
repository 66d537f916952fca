// A mixture of experts on CUDA, against one row and one expert at a time in float64.
#include "kernels/moe_cuda.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/activation.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/device_memory.h"
#include "tests/support/half_words.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

struct MoeShape {
  int32_t num_experts = 8;
  int32_t per_token = 2;
  int32_t hidden_dim = 64;
  int32_t ffn_dim = 40;
  bool normalize = true;
  bool has_bias = false;
  Activation activation = Activation::kSilu;
};

class MoeCase {
 public:
  MoeCase(const MoeShape& shape, int32_t num_rows, DType dtype)
      : shape_(shape), num_rows_(num_rows), dtype_(dtype) {
    Random random(static_cast<uint64_t>(num_rows) * 31 + 5);
    x_ = Round(random.NormalVector(int64_t{num_rows} * shape.hidden_dim), dtype);
    logits_ = random.NormalVector(int64_t{num_rows} * shape.num_experts, 2);
    for (int32_t e = 0; e < shape.num_experts; ++e) {
      gate_up_.push_back(
          Round(random.NormalVector(int64_t{2} * shape.ffn_dim * shape.hidden_dim, 0.2F), dtype));
      down_.push_back(
          Round(random.NormalVector(int64_t{shape.hidden_dim} * shape.ffn_dim, 0.2F), dtype));
      gate_up_bias_.push_back(random.NormalVector(2 * shape.ffn_dim));
      down_bias_.push_back(random.NormalVector(shape.hidden_dim));
    }
  }

  // Rows [first, first + num_rows) by themselves.
  std::vector<float> Run(int32_t first, int32_t num_rows) const {
    const size_t gate_up_bytes = Padded(gate_up_[0].size() * 2);
    const size_t down_bytes = Padded(down_[0].size() * 2);
    const size_t expert_bytes = gate_up_bytes + Padded(gate_up_bias_[0].size() * 4) + down_bytes +
                                Padded(down_bias_[0].size() * 4);
    const DeviceMemory slab(expert_bytes * gate_up_.size());
    std::vector<ExpertWeights> experts;
    std::byte* at = slab.as();
    const auto put = [&](const auto& values) {
      std::byte* to = at;
      const size_t bytes = values.size() * sizeof(values[0]);
      CheckCuda(cudaMemcpy(to, values.data(), bytes, cudaMemcpyHostToDevice), "weights");
      at += Padded(bytes);
      return to;
    };
    for (size_t e = 0; e < gate_up_.size(); ++e) {
      ExpertWeights& expert = experts.emplace_back();
      expert.gate_up = {put(ToWords(gate_up_[e], dtype_)),
                        2 * int64_t{shape_.ffn_dim},
                        shape_.hidden_dim,
                        dtype_};
      const auto* gate_up_bias = reinterpret_cast<const float*>(put(gate_up_bias_[e]));
      expert.down = {put(ToWords(down_[e], dtype_)), shape_.hidden_dim, shape_.ffn_dim, dtype_};
      const auto* down_bias = reinterpret_cast<const float*>(put(down_bias_[e]));
      expert.gate_up_bias = shape_.has_bias ? gate_up_bias : nullptr;
      expert.down_bias = shape_.has_bias ? down_bias : nullptr;
    }
    const DeviceMemory x(ToWords(x_, dtype_));
    const DeviceMemory logits(logits_);
    const DeviceMemory out(static_cast<size_t>(num_rows) * shape_.hidden_dim * 4);
    const DeviceMemory workspace(static_cast<size_t>(
        ExpertsWorkspace(
            int64_t{num_rows} * shape_.per_token, shape_.hidden_dim, shape_.ffn_dim, dtype_)
            .bytes));
    const DeviceMemory routes(
        static_cast<size_t>(cuda::RoutesBytes(num_rows, shape_.per_token, shape_.num_experts)));
    out.Fill(0xff);
    workspace.Fill(0xff);
    routes.Fill(0xff);
    const ExpertsArgs args = {
        .router_logits = logits.as<float>() + int64_t{first} * shape_.num_experts,
        .x = x.as<uint16_t>() + int64_t{first} * shape_.hidden_dim,
        .out = out.as<float>(),
        .experts = experts,
        .workspace = workspace.as(),
        .num_rows = num_rows,
        .experts_per_token = shape_.per_token,
        .hidden_dim = shape_.hidden_dim,
        .ffn_dim = shape_.ffn_dim,
        .normalize = shape_.normalize,
        .activation = shape_.activation,
        .dtype = dtype_};
    REQUIRE(cuda::CheckExpertsCudaArgs(args) == nullptr);
    CheckCuda(cuda::LaunchExperts(args, routes.as(), nullptr), "LaunchExperts");
    CheckCuda(cudaDeviceSynchronize(), "experts");
    return out.Download<float>();
  }

  // rounds: the activation to dtype, as the kernels do.
  template <typename T>
  std::vector<T> Reference(bool rounds) const {
    std::vector<T> out;
    for (int32_t row = 0; row < num_rows_; ++row) {
      const float* logits = logits_.data() + int64_t{row} * shape_.num_experts;
      std::vector<int32_t> order(static_cast<size_t>(shape_.num_experts));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(
          order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
      T total = 0;
      for (int32_t i = 0; i < (shape_.normalize ? shape_.per_token : shape_.num_experts); ++i) {
        total += std::exp(T{logits[order[static_cast<size_t>(i)]]});
      }
      std::vector<T> sum(static_cast<size_t>(shape_.hidden_dim));
      for (int32_t i = 0; i < shape_.per_token; ++i) {
        const int32_t expert = order[static_cast<size_t>(i)];
        const std::vector<T> part = Expert<T>(row, static_cast<size_t>(expert), rounds);
        const T weight = std::exp(T{logits[expert]}) / total;
        for (size_t j = 0; j < sum.size(); ++j) {
          sum[j] += weight * part[j];
        }
      }
      out.insert(out.end(), sum.begin(), sum.end());
    }
    return out;
  }

 private:
  static size_t Padded(size_t bytes) { return RoundUp<size_t>(bytes, 128); }

  template <typename T>
  static std::vector<T> Product(const std::vector<T>& x,
                                const std::vector<float>& weight,
                                const std::vector<float>* bias) {
    std::vector<T> out;
    for (size_t row = 0; row < weight.size() / x.size(); ++row) {
      T sum = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        sum += x[i] * T{weight[row * x.size() + i]};
      }
      out.push_back(bias == nullptr ? sum : sum + T{(*bias)[row]});
    }
    return out;
  }

  template <typename T>
  std::vector<T> Expert(int32_t row, size_t e, bool rounds) const {
    const auto first = x_.begin() + int64_t{row} * shape_.hidden_dim;
    const std::vector<T> x(first, first + shape_.hidden_dim);
    const std::vector<T> wide =
        Product(x, gate_up_[e], shape_.has_bias ? &gate_up_bias_[e] : nullptr);
    // The reference of activations reads floats: of doubles that costs less than any rounding here.
    const std::vector<float> inner(wide.begin(), wide.end());
    std::vector<T> activated(static_cast<size_t>(shape_.ffn_dim));
    ActivationRef({.in = inner.data(),
                   .num_rows = 1,
                   .ffn_dim = shape_.ffn_dim,
                   .activation = shape_.activation,
                   .gated = true},
                  activated.data());
    for (T& value : activated) {
      value = rounds ? T{FromWord(ToWord(static_cast<float>(value), dtype_), dtype_)} : value;
    }
    return Product(activated, down_[e], shape_.has_bias ? &down_bias_[e] : nullptr);
  }

  const MoeShape shape_;
  const int32_t num_rows_;
  const DType dtype_;
  std::vector<float> x_;
  std::vector<float> logits_;
  std::vector<std::vector<float>> gate_up_;
  std::vector<std::vector<float>> down_;
  std::vector<std::vector<float>> gate_up_bias_;
  std::vector<std::vector<float>> down_bias_;
};

}  // namespace

TEST_CASE("rows on CUDA get the weighted sum of their experts, whoever else is there", "[cuda]") {
  const std::vector<MoeShape> shapes = {
      {},
      {.num_experts = 5, .per_token = 3, .hidden_dim = 72, .ffn_dim = 104, .normalize = false},
      {.num_experts = 4,
       .per_token = 4,
       .hidden_dim = 136,
       .has_bias = true,
       .activation = Activation::kClampedSilu},
      {.num_experts = 1, .per_token = 1},
      {.num_experts = 70, .per_token = 8, .hidden_dim = 32, .ffn_dim = 16}};
  for (const MoeShape& shape : shapes) {
    for (const DType dtype : kHalfTypes) {
      for (const int32_t num_rows : {1, 5, 200}) {
        CAPTURE(shape.num_experts, shape.per_token, num_rows, DTypeName(dtype));
        const MoeCase c(shape, num_rows, dtype);
        const std::vector<float> got = c.Run(0, num_rows);
        const std::vector<double> truth = c.Reference<double>(false);
        const std::vector<float> plain = c.Reference<float>(true);
        CHECK(MaxError(got, truth) <=
              2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32));
        for (int32_t row = 0; row < num_rows; row += 67) {
          const auto first = got.begin() + int64_t{row} * shape.hidden_dim;
          CHECK(SameBits(c.Run(row, 1), std::vector<float>(first, first + shape.hidden_dim)));
        }
      }
    }
  }
}

TEST_CASE("a few rows and experts on CUDA", "[brief]") {
  const MoeShape shape = {.num_experts = 6, .per_token = 3, .has_bias = true};
  const MoeCase c(shape, 70, DType::kBf16);
  const std::vector<double> truth = c.Reference<double>(false);
  CHECK(MaxError(c.Run(0, 70), truth) <=
        2 * MaxError(c.Reference<float>(true), truth) + OneUlp(MaxAbs(truth), DType::kF32));
}

TEST_CASE("experts that CUDA cannot run are named", "[cuda]") {
  std::vector<ExpertWeights> experts(3);
  std::vector<std::byte> room(4096);
  for (size_t i = 0; i < experts.size(); ++i) {
    experts[i].gate_up.data = room.data() + 256 * i;
    experts[i].down.data = room.data() + 256 * i + 128;
  }
  ExpertsArgs args = {
      .experts = experts, .num_rows = 4, .experts_per_token = 2, .hidden_dim = 8, .ffn_dim = 8};
  CHECK(cuda::CheckExpertsCudaArgs(args) == nullptr);
  args.ffn_dim = 12;
  CHECK(cuda::CheckExpertsCudaArgs(args) != nullptr);
  args.ffn_dim = 8;
  args.experts_per_token = 4;
  CHECK(cuda::CheckExpertsCudaArgs(args) != nullptr);
  args.experts_per_token = 2;
  experts[2].down.data += 128;
  CHECK(cuda::CheckExpertsCudaArgs(args) != nullptr);
}

}  // namespace ringserve
