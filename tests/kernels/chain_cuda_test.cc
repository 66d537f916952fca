#include "kernels/chain_cuda.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/rmsnorm_cuda.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/device_memory.h"
#include "tests/support/half_words.h"
#include "tests/support/hopper_device.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

struct Shape {
  int32_t rows;
  int32_t hidden;
  int32_t ffn;
  int32_t qkv;
  DType dtype = DType::kBf16;
  bool defers = false;
};

std::vector<uint16_t> Words(Random& random, int64_t count, float scale, DType dtype) {
  return ToWords(random.NormalVector(count, scale), dtype);
}

// What lies between two attentions of a model: o_proj, norm, gate and up, down, norm, qkv.
class Layer {
 public:
  explicit Layer(const Shape& shape, uint64_t seed = 7)
      : s_(shape),
        random_(seed),
        attended_(Words(random_, int64_t{s_.rows} * s_.hidden, 1, s_.dtype)),
        o_(Weight(s_.hidden, s_.hidden)),
        gate_up_(Weight(2 * s_.ffn, s_.hidden)),
        down_(Weight(s_.hidden, s_.ffn)),
        qkv_(Weight(s_.qkv, s_.hidden)),
        norm_(random_.NormalVector(s_.hidden, 1)),
        start_(random_.NormalVector(int64_t{s_.rows} * s_.hidden, 1)),
        x_(Bytes(4, s_.hidden)),
        projected_(Bytes(4, s_.hidden)),
        normed_(Bytes(2, s_.hidden)),
        activated_(Bytes(2, s_.ffn)),
        out_(Bytes(4, s_.qkv)),
        scales_(static_cast<size_t>(RoundUp(shape.rows, 4)) * sizeof(float)) {}

  // Unwritten results are NaN.
  void Reset() {
    CheckCuda(cudaMemcpy(x_.as(), start_.data(), x_.bytes(), cudaMemcpyHostToDevice), "copy");
    for (const DeviceMemory* memory : {&projected_, &normed_, &activated_, &out_, &scales_}) {
      memory->Fill(0xff);
    }
  }

  std::vector<cuda::ChainOp> Ops() const {
    const RmsNormArgs norm = {.x = x_.as<float>(),
                              .residual_in = projected_.as<float>(),
                              .weight = norm_.as<float>(),
                              .out = normed_.as(),
                              .num_rows = s_.rows,
                              .hidden_dim = s_.hidden,
                              .eps = 1e-5F,
                              .out_dtype = s_.dtype,
                              .scales = scales()};
    return {
        MatMulArgs{attended_.as(), Of(o_, s_.hidden, s_.hidden), projected_.as<float>(), s_.rows},
        norm,
        cuda::GatedMatMulArgs{
            normed_.as(), Of(gate_up_, 2 * s_.ffn, s_.hidden), activated_.as(), s_.rows, scales()},
        MatMulArgs{activated_.as(), Of(down_, s_.hidden, s_.ffn), projected_.as<float>(), s_.rows},
        norm,
        MatMulArgs{.x = normed_.as(),
                   .weight = Of(qkv_, s_.qkv, s_.hidden),
                   .out = out_.as<float>(),
                   .num_rows = s_.rows,
                   .row_scales = scales()}};
  }

  // Everything the ops left behind, but for what a deferred norm has added.
  std::vector<std::vector<uint32_t>> Results() const {
    CheckCuda(cudaDeviceSynchronize(), "the ops");
    std::vector<std::vector<uint32_t>> results;
    for (const DeviceMemory* memory : {&x_, &normed_, &activated_, &out_, &scales_}) {
      results.push_back(memory->Download<uint32_t>());
    }
    if (!s_.defers) {
      results.push_back(projected_.Download<uint32_t>());
    }
    return results;
  }

 private:
  DeviceMemory Weight(int64_t rows, int64_t cols) {
    return DeviceMemory(
        Words(random_, rows * cols, 1 / std::sqrt(static_cast<float>(cols)), s_.dtype));
  }

  float* scales() const { return s_.defers ? scales_.as<float>() : nullptr; }

  Matrix Of(const DeviceMemory& memory, int64_t rows, int64_t cols) const {
    return {memory.as(), rows, cols, s_.dtype};
  }

  DeviceMemory Bytes(int64_t element_bytes, int64_t columns) const {
    return DeviceMemory(static_cast<size_t>(element_bytes * s_.rows * columns));
  }

  Shape s_;
  Random random_;
  DeviceMemory attended_, o_, gate_up_, down_, qkv_, norm_;
  std::vector<float> start_;
  DeviceMemory x_, projected_, normed_, activated_, out_, scales_;
};

void LaunchApart(const std::vector<cuda::ChainOp>& ops) {
  for (const cuda::ChainOp& op : ops) {
    if (const auto* norm = std::get_if<RmsNormArgs>(&op)) {
      CheckCuda(cuda::LaunchRmsNorm(*norm, nullptr), "norm");
    } else if (const auto* gated = std::get_if<cuda::GatedMatMulArgs>(&op)) {
      CheckCuda(cuda::LaunchHopperGatedMatMul(Hopper(), *gated, nullptr), "gated matmul");
    } else {
      CheckCuda(cuda::LaunchHopperMatMul(Hopper(), std::get<MatMulArgs>(op), nullptr), "matmul");
    }
  }
}

class ChainMemory {
 public:
  ChainMemory() : memory_(cuda::kChainBytes) { memory_.Fill(0); }

  std::byte* get() const { return memory_.as(); }

  bool CountersAreZero() const {
    const std::vector<int32_t> values = memory_.Download<int32_t>();
    return std::all_of(values.begin(),
                       values.begin() + cuda::kChainCounterBytes / sizeof(int32_t),
                       [](int32_t value) { return value == 0; });
  }

 private:
  DeviceMemory memory_;
};

}  // namespace

TEST_CASE("a chain has the bits of its ops one by one", "[cuda][chain]") {
  if (!IsHopper()) {
    return;
  }
  const ChainMemory memory;
  int32_t max_rows = 0;
  REQUIRE(cuda::FindMaxChainRows(Hopper(), max_rows) == cudaSuccess);
  // Gates of more tiles than an H200 has blocks, norms of two sizes.
  for (const Shape& shape : {Shape{1, 64, 64, 24},
                             Shape{1, 128, 14336, 512},
                             Shape{1, 576, 704, 333, DType::kF16},
                             Shape{1, 4160, 704, 136},
                             Shape{1, 8192, 64, 24},
                             Shape{2, 4160, 64, 136},
                             Shape{3, 576, 704, 333},
                             Shape{5, 192, 9024, 2000},
                             Shape{8, 1024, 1408, 1536, DType::kF16},
                             Shape{9, 192, 9024, 2000},
                             Shape{16, 128, 14336, 512, DType::kF16},
                             Shape{17, 576, 704, 333},
                             Shape{25, 4160, 64, 136},
                             Shape{32, 1024, 1408, 1536},
                             Shape{1, 64, 64, 24, DType::kBf16, true},
                             Shape{1, 4160, 704, 136, DType::kBf16, true},
                             Shape{2, 8192, 64, 24, DType::kBf16, true},
                             Shape{7, 576, 704, 333, DType::kBf16, true},
                             Shape{13, 192, 9024, 2000, DType::kBf16, true},
                             Shape{27, 4160, 64, 136, DType::kBf16, true},
                             Shape{32, 1024, 1408, 1536, DType::kBf16, true}}) {
    INFO("rows " << shape.rows << " hidden " << shape.hidden << " ffn " << shape.ffn << " deferred "
                 << shape.defers);
    if (shape.rows > max_rows) {
      WARN("not tested: pairs of blocks do not fill this device");
      continue;
    }
    Layer layer(shape);
    const std::vector<cuda::ChainOp> ops = layer.Ops();
    layer.Reset();
    LaunchApart(ops);
    const auto expected = layer.Results();
    for (const cuda::ChainTuning& tuning : {cuda::ChainTuning{},
                                            cuda::ChainTuning{.room_bytes = 100 << 10},
                                            cuda::ChainTuning{.room_bytes = 220 << 10},
                                            cuda::ChainTuning{.shared_bytes = 100 << 10},
                                            cuda::ChainTuning{.max_units = 1},
                                            cuda::ChainTuning{.max_units = 3}}) {
      INFO("room " << tuning.room_bytes << " shared " << tuning.shared_bytes << " units "
                   << tuning.max_units);
      layer.Reset();
      CheckCuda(cuda::LaunchChain(Hopper(), ops, memory.get(), nullptr, tuning), "chain");
      CHECK(layer.Results() == expected);
      CHECK(memory.CountersAreZero());
    }
    // Any run of the ops is a chain.
    layer.Reset();
    CheckCuda(cuda::LaunchChain(Hopper(), {ops.data(), 1}, memory.get(), nullptr), "chain");
    CheckCuda(cuda::LaunchChain(Hopper(), {ops.data() + 1, 2}, memory.get(), nullptr), "chain");
    CheckCuda(cuda::LaunchChain(Hopper(), {ops.data() + 3, 3}, memory.get(), nullptr), "chain");
    CHECK(layer.Results() == expected);
    layer.Reset();
    CheckCuda(cuda::LaunchChain(Hopper(), {ops.data(), 2}, memory.get(), nullptr), "chain");
    CheckCuda(cuda::LaunchChain(Hopper(), {ops.data() + 2, 4}, memory.get(), nullptr), "chain");
    CHECK(layer.Results() == expected);
  }
}

TEST_CASE("chains that follow each other leave nothing behind", "[cuda][chain]") {
  if (!IsHopper()) {
    return;
  }
  const ChainMemory memory;
  int32_t max_rows = 0;
  REQUIRE(cuda::FindMaxChainRows(Hopper(), max_rows) == cudaSuccess);
  for (const auto& [rows, defers] : {std::pair{1, false},
                                     std::pair{1, true},
                                     std::pair{8, true},
                                     std::pair{max_rows / 2, false},
                                     std::pair{max_rows / 2, true},
                                     std::pair{max_rows, true}}) {
    INFO("rows " << rows << " deferred " << defers);
    Layer layer({rows, 512, 2816, 768, DType::kBf16, defers});
    const std::vector<cuda::ChainOp> ops = layer.Ops();
    layer.Reset();
    for (int32_t i = 0; i < 100; ++i) {
      LaunchApart(ops);
    }
    const auto expected = layer.Results();
    layer.Reset();
    for (int32_t i = 0; i < 100; ++i) {
      CheckCuda(cuda::LaunchChain(Hopper(), ops, memory.get(), nullptr), "chain");
    }
    CHECK(layer.Results() == expected);
    CHECK(memory.CountersAreZero());
  }
}

TEST_CASE("what a chain cannot do is refused", "[cuda][chain]") {
  alignas(16) float nothing[4] = {};
  const Matrix weight = {reinterpret_cast<const std::byte*>(nothing), 16, 64, DType::kBf16};
  const MatMulArgs product = {nothing, weight, nothing, 1};
  CHECK(cuda::CheckChainOp(product) == nullptr);
  MatMulArgs args = product;
  args.num_rows = 33;
  CHECK(cuda::CheckChainOp(args) != nullptr);
  args = product;
  args.bias = nothing;
  CHECK(cuda::CheckChainOp(args) != nullptr);
  args = product;
  args.weight.cols = 72;
  CHECK(cuda::CheckChainOp(args) != nullptr);
  CHECK(cuda::CheckChainOp(cuda::GatedMatMulArgs{nothing, weight, nothing, 1}) == nullptr);
  CHECK(cuda::CheckChainOp(RmsNormArgs{.num_rows = 1, .hidden_dim = 8196}) != nullptr);
  CHECK(cuda::CheckChainOp(
            RmsNormArgs{.num_rows = 1, .hidden_dim = 64, .out_dtype = DType::kF32}) != nullptr);
  if (IsHopper()) {
    const ChainMemory memory;
    args = product;
    args.num_rows = 2;
    const std::vector<cuda::ChainOp> uneven = {product, args};
    CHECK(cuda::LaunchChain(Hopper(), uneven, memory.get(), nullptr) != cudaSuccess);
    CHECK(cuda::LaunchChain(Hopper(), {}, memory.get(), nullptr) != cudaSuccess);
  }
}

}  // namespace ringserve
