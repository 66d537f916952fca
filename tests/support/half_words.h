// Numbers as the 16-bit words that device memory holds, of bf16 or f16.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/types.h"

namespace ringserve {

inline float FromWord(uint16_t word, DType dtype) {
  return dtype == DType::kBf16 ? ToFloat(Bf16{word}) : ToFloat(F16{word});
}

// As the compiler rounds.
inline uint16_t RoundToHalf(float value) {
#if defined(__aarch64__) || defined(__clang__)
  const auto half = static_cast<__fp16>(value);  // gcc 12 knows no other name there
#else
  const auto half = static_cast<_Float16>(value);
#endif
  uint16_t word = 0;
  std::memcpy(&word, &half, sizeof word);
  return word;
}

inline uint16_t ToWord(float value, DType dtype) {
  if (dtype == DType::kBf16) {
    return ToBf16(value).bits;
  }
  return RoundToHalf(value);
}

inline std::vector<float> Widen(const std::vector<uint16_t>& words, DType dtype) {
  std::vector<float> values;
  for (const uint16_t word : words) {
    values.push_back(FromWord(word, dtype));
  }
  return values;
}

inline std::vector<uint16_t> ToWords(const std::vector<float>& values, DType dtype) {
  std::vector<uint16_t> words;
  for (const float value : values) {
    words.push_back(ToWord(value, dtype));
  }
  return words;
}

inline std::vector<float> Round(const std::vector<float>& values, DType dtype) {
  return Widen(ToWords(values, dtype), dtype);
}

constexpr DType kHalfTypes[] = {DType::kBf16, DType::kF16};

}  // namespace ringserve
