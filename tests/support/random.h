// Seeded random data for tests: the same on every platform and compiler (the distributions of the
// standard library are not).
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/types.h"

namespace ringserve {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  // SplitMix64 (Steele, Lea and Flood 2014).
  uint64_t Bits() {
    state_ += 0x9e3779b97f4a7c15ULL;
    uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9ULL;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebULL;
    return mixed ^ (mixed >> 31);
  }

  // In [first, last], both included; requires first <= last.
  int64_t Int(int64_t first, int64_t last) {
    const uint64_t range = static_cast<uint64_t>(last) - static_cast<uint64_t>(first) + 1;
    return range == 0 ? static_cast<int64_t>(Bits()) : first + static_cast<int64_t>(Bits() % range);
  }

  // In [low, high).
  double Uniform(double low, double high) {
    return low + (high - low) * std::ldexp(static_cast<double>(Bits() >> 11), -53);
  }

  // About normal, mean 0 and variance 1: a sum of twelve uniforms, cheap and within [-6, 6].
  float Normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) {
      sum += Uniform(0, 1);
    }
    return static_cast<float>(sum);
  }

  std::vector<float> NormalVector(int64_t count, float scale = 1) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) {
      value = scale * Normal();
    }
    return values;
  }

 private:
  uint64_t state_;
};

inline std::vector<Bf16> ToBf16(const std::vector<float>& values) {
  std::vector<Bf16> rounded;
  rounded.reserve(values.size());
  for (const float value : values) {
    rounded.push_back(ToBf16(value));
  }
  return rounded;
}

inline std::vector<float> ToFloat(const std::vector<Bf16>& values) {
  std::vector<float> widened;
  widened.reserve(values.size());
  for (const Bf16 value : values) {
    widened.push_back(ToFloat(value));
  }
  return widened;
}

}  // namespace ringserve
