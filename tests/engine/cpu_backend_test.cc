// What the steps of several models share on a CPU.
#include <cstdint>
#include <vector>

#include "engine/backend/backend_cpu.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

constexpr int32_t kRows = 600;

// Products of kRows rows of `cols` columns, bf16.
class Product {
 public:
  Product(Backend& backend, int64_t cols)
      : backend_(backend), x_(ToBf16(Random(1).NormalVector(kRows * cols))) {
    constexpr int64_t kOutputs = 130;
    const std::vector<Bf16> weight = ToBf16(Random(2).NormalVector(kOutputs * cols));
    const HostTensor tensor = {
        reinterpret_cast<const std::byte*>(weight.data()), kOutputs, cols, DType::kBf16};
    auto memory =
        backend.Allocate(backend.MatrixBytes(kOutputs, cols, DType::kBf16), MemoryKind::kDevice);
    REQUIRE(memory.ok());
    memory_ = *std::move(memory);
    const auto packed = backend.PackMatrix({&tensor, 1}, DType::kBf16, memory_.data());
    REQUIRE(packed.ok());
    weight_ = *packed;
  }

  std::vector<float> Run() {
    std::vector<float> out(static_cast<size_t>(kRows * weight_.rows));
    REQUIRE(backend_.MatMul({x_.data(), weight_, out.data(), kRows}).ok());
    return out;
  }

 private:
  Backend& backend_;
  std::vector<Bf16> x_;
  Buffer memory_;
  Matrix weight_;
};

// As a draft model does, which is prepared after the model that it drafts for.
TEST_CASE("a small model's steps leave a large one what it needs") {
  auto made = MakeCpuBackend(2);
  REQUIRE(made.ok());
  Backend& backend = **made;
  ModelConfig large;
  large.hidden_dim = 3000;
  ModelConfig small;
  small.hidden_dim = 64;
  Product product(backend, large.hidden_dim);
  const std::vector<float> unprepared = product.Run();
  REQUIRE(backend.PrepareSteps(large, DType::kBf16, {.max_rows = kRows}).ok());
  REQUIRE(backend.PrepareSteps(small, DType::kBf16, {.max_rows = 20}).ok());
  CHECK(SameBits(product.Run(), unprepared));
  CHECK(SameBits(product.Run(), unprepared));
}

}  // namespace
}  // namespace ringserve
