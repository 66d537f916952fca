#include "engine/sample/softmax.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <limits>

namespace ringserve {
namespace {

// Loops over this many independent lanes are what compilers turn into vector code (fewer they
// unroll instead); the order of addition stays the same whatever they make of them.
constexpr size_t kLanes = 64;
constexpr size_t kChunk = 256;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// The least that ExpNonPositive takes; its result is a number near 1e-38.
constexpr float kMinExponent = -87.0F;

// exp(y) for kMinExponent <= y <= 0: 2^n * e^r with |r| <= ln(2) / 2 and the polynomial of Cephes'
// expf, about one unit in the last place. Branch-free.
inline float ExpNonPositive(float y) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = y * 1.44269504F + kRound;
  const float n = shifted - kRound;
  const float r = (y - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) + 127U) << 23;
  return p * std::bit_cast<float>(exponent);
}

}  // namespace

LogitScan ScanLogits(std::span<const float> logits) {
  std::array<float, kLanes> max;
  std::array<uint32_t, kLanes> num_unsound{};
  max.fill(kMinusInfinity);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    const float* x = logits.data() + i;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      max[lane] = x[lane] > max[lane] ? x[lane] : max[lane];
      num_unsound[lane] |= x[lane] <= std::numeric_limits<float>::max() ? 0U : 1U;
    }
  }
  for (; i < logits.size(); ++i) {
    max[0] = std::max(max[0], logits[i]);
    num_unsound[0] |= logits[i] <= std::numeric_limits<float>::max() ? 0U : 1U;
  }
  LogitScan scan{.max = max[0], .is_sound = num_unsound[0] == 0};
  for (size_t lane = 1; lane < kLanes; ++lane) {
    scan.max = std::max(scan.max, max[lane]);
    scan.is_sound = scan.is_sound && num_unsound[lane] == 0;
  }
  return scan;
}

double SumExp(std::span<const float> logits, float max, float temperature) {
  double sum = 0;
  std::array<float, kChunk> terms;
  for (size_t first = 0; first < logits.size(); first += kChunk) {
    const size_t count = std::min(kChunk, logits.size() - first);
    const float* x = logits.data() + first;
    // Each step is a loop of its own: only so do compilers make vector code of all of them.
    for (size_t i = 0; i < count; ++i) {
      terms[i] = x[i] - max;
    }
    if (temperature != 1.0F) {
      for (size_t i = 0; i < count; ++i) {
        terms[i] /= temperature;
      }
    }
    for (size_t i = 0; i < count; ++i) {
      terms[i] = terms[i] > kMinExponent ? terms[i] : kMinExponent;
    }
    for (size_t i = 0; i < count; ++i) {
      terms[i] = ExpNonPositive(terms[i]);
    }
    std::fill(terms.begin() + static_cast<std::ptrdiff_t>(count), terms.end(), 0.0F);
    std::array<float, kLanes> lanes{};
    for (size_t i = 0; i < kChunk; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        lanes[lane] += terms[i + lane];
      }
    }
    for (const float lane : lanes) {
      sum += static_cast<double>(lane);
    }
  }
  return sum;
}

}  // namespace ringserve
