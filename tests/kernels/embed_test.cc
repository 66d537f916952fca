#include "kernels/embed.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/half_words.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

template <typename T>
std::vector<float> Embed(const std::vector<T>& table,
                         DType dtype,
                         int32_t hidden_dim,
                         const std::vector<int32_t>& token_ids) {
  const auto num_rows = static_cast<int32_t>(token_ids.size());
  std::vector<float> out(token_ids.size() * static_cast<size_t>(hidden_dim));
  EmbedCpu({.token_ids = token_ids.data(),
            .table = reinterpret_cast<const std::byte*>(table.data()),
            .out = out.data(),
            .num_rows = num_rows,
            .hidden_dim = hidden_dim,
            .vocab_size = static_cast<int32_t>(table.size()) / hidden_dim,
            .table_dtype = dtype});
  return out;
}

TEST_CASE("rows of the table come out as float32") {
  const int32_t hidden_dim = GENERATE(1, 5, 64);
  const std::vector<Bf16> table = ToBf16(Random(9).NormalVector(int64_t{11} * hidden_dim));
  const std::vector<int32_t> token_ids = {10, 0, 3, 3};
  std::vector<float> expected;
  for (const int32_t token_id : token_ids) {
    for (int32_t j = 0; j < hidden_dim; ++j) {
      expected.push_back(ToFloat(table[static_cast<size_t>(int64_t{token_id} * hidden_dim + j)]));
    }
  }
  CHECK(SameBits(Embed(table, DType::kBf16, hidden_dim, token_ids), expected));
  CHECK(SameBits(Embed(ToFloat(table), DType::kF32, hidden_dim, token_ids), expected));
}

TEST_CASE("floats round to halves as the compiler rounds them") {
  const auto check = [](float value) {
    const uint16_t bits = RoundToHalf(value);
    const uint16_t got = ToF16(value).bits;
    if (std::isnan(value)) {
      REQUIRE(std::isnan(ToFloat(F16{got})));
    } else {
      CAPTURE(value);
      REQUIRE(got == bits);
    }
  };
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 65521) {
    check(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  // Every half, and what lies half way to the next.
  for (uint32_t bits = 0; bits < 0x7c00U; ++bits) {
    const float low = ToFloat(F16{static_cast<uint16_t>(bits)});
    const float high = bits == 0x7bffU ? 65536.0F : ToFloat(F16{static_cast<uint16_t>(bits + 1)});
    const float middle = low + (high - low) / 2;
    for (const float value :
         {low, middle, std::nextafter(middle, 0.0F), std::nextafter(middle, high)}) {
      check(value);
      check(-value);
    }
  }
}

TEST_CASE("binary16 widens exactly") {
  const std::vector<F16> table = {{0x0000},
                                  {0x8000},
                                  {0x3c00},
                                  {0xc000},
                                  {0x0001},
                                  {0x03ff},
                                  {0x0400},
                                  {0x7bff},
                                  {0x7c00},
                                  {0xfc00}};
  const std::vector<float> expected = {0,
                                       -0.0F,
                                       1,
                                       -2,
                                       0x1p-24F,
                                       0x3ffp-24F,
                                       0x1p-14F,
                                       65504,
                                       std::numeric_limits<float>::infinity(),
                                       -std::numeric_limits<float>::infinity()};
  CHECK(SameBits(Embed(table, DType::kF16, 10, {0}), expected));
}

}  // namespace
}  // namespace ringserve
