// Element types that host and device code share.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace ringserve {

enum class DType : uint8_t { kF32, kBf16, kF16 };

constexpr int32_t DTypeBytes(DType dtype) {
  return dtype == DType::kF32 ? 4 : 2;
}

constexpr const char* DTypeName(DType dtype) {
  return dtype == DType::kF32 ? "f32" : dtype == DType::kBf16 ? "bf16" : "f16";
}

// The upper half of a float32.
struct Bf16 {
  uint16_t bits;
};

constexpr float ToFloat(Bf16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

// Rounds to nearest even, as hardware conversions do; a NaN stays a (quiet) NaN.
constexpr Bf16 ToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) {
    return Bf16{static_cast<uint16_t>((bits >> 16) | 0x40U)};
  }
  return Bf16{static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
}

// IEEE 754 binary16.
struct F16 {
  uint16_t bits;
};

constexpr float ToFloat(F16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000U) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fU;
  const uint32_t mantissa = value.bits & 0x3ffU;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  const uint32_t widened = exponent == 0x1f ? 0xffU : exponent + 112;
  return std::bit_cast<float>(sign | widened << 23 | mantissa << 13);
}

// Rounds to nearest even; what is too large becomes infinite, a NaN stays a (quiet) NaN.
constexpr F16 ToF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {
    return F16{static_cast<uint16_t>(sign | 0x7e00U)};
  }
  if (magnitude >= 0x477ff000U) {  // 65520, half way to the power of two behind the largest
    return F16{static_cast<uint16_t>(sign | 0x7c00U)};
  }
  if (magnitude < 0x38800000U) {  // subnormal: adding 0.5 rounds at 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return F16{static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000U))};
  }
  const uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U);
  return F16{static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13))};
}

// value / divisor rounded up, value rounded up to a multiple; for value >= 0 and divisor > 0.
template <typename T>
constexpr T CeilDiv(T value, T divisor) {
  return (value + divisor - 1) / divisor;
}

template <typename T>
constexpr T RoundUp(T value, T multiple) {
  return CeilDiv(value, multiple) * multiple;
}

}  // namespace ringserve
