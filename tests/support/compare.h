// How tests compare numbers: fast code may be at most twice as wrong as the yardstick (the
// reference in float, rounding where the kernel rounds), both measured against the reference in
// double:
//   CHECK(MaxError(got, truth) <= 2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), dtype));
// No tolerances are tuned by hand.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/types.h"

namespace ringserve {

inline double ToDouble(double value) {
  return value;
}

inline double ToDouble(Bf16 value) {
  return ToFloat(value);
}

// The largest magnitude; infinite if any value is not a number.
template <typename T>
double MaxAbs(const std::vector<T>& values) {
  double largest = 0;
  for (const T& value : values) {
    const double magnitude = std::abs(ToDouble(value));
    if (std::isnan(magnitude)) {
      return std::numeric_limits<double>::infinity();
    }
    largest = std::max(largest, magnitude);
  }
  return largest;
}

// The largest difference. Infinite if the lengths differ or if a value is not finite where its
// counterpart is another one: NaN equals NaN and an infinity itself, nothing else.
template <typename T, typename U>
double MaxError(const std::vector<T>& got, const std::vector<U>& truth) {
  if (got.size() != truth.size()) {
    return std::numeric_limits<double>::infinity();
  }
  double largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double a = ToDouble(got[i]);
    const double b = ToDouble(truth[i]);
    if (a == b || (std::isnan(a) && std::isnan(b))) {
      continue;
    }
    const double error = std::abs(a - b);
    if (!std::isfinite(error)) {
      return std::numeric_limits<double>::infinity();
    }
    largest = std::max(largest, error);
  }
  return largest;
}

// The spacing of dtype's numbers at `magnitude` (a unit in the last place); infinite magnitudes
// have none: 0.
inline double OneUlp(double magnitude, DType dtype) {
  const int digits = dtype == DType::kF32 ? 24 : dtype == DType::kBf16 ? 8 : 11;
  const int min_exponent = dtype == DType::kF16 ? -14 : -126;
  if (!std::isfinite(magnitude)) {
    return 0;
  }
  const int exponent = magnitude == 0 ? min_exponent : std::ilogb(magnitude);
  return std::ldexp(1.0, std::max(exponent, min_exponent) - digits + 1);
}

// Same length and same bits, signs of zero and NaN payloads included.
template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace ringserve
