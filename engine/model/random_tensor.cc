#include "engine/model/random_tensor.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

namespace ringserve {
namespace {

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;

// SplitMix64 (Steele et al. 2014).
uint64_t Mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
  return bits ^ (bits >> 31);
}

// The sum of four uniform 16-bit numbers is near enough to normal, for one multiplication more than
// a uniform number. Its standard deviation is 65536 / sqrt(3).
float Normal(uint64_t bits) {
  constexpr float kScale = 0.02F / 37837.227F;
  const auto sum = static_cast<int32_t>((bits & 0xffff) + ((bits >> 16) & 0xffff) +
                                        ((bits >> 32) & 0xffff) + (bits >> 48));
  return static_cast<float>(sum - 131070) * kScale;
}

template <typename T, typename Convert>
void Fill(T* to, int64_t first, int64_t last, RandomKind kind, uint64_t key, Convert convert) {
  if (kind == RandomKind::kOnes) {
    std::fill(to + first, to + last, convert(1.0F));
    return;
  }
  for (int64_t i = first; i < last; ++i) {
    to[i] = convert(Normal(Mix(key + kGolden * static_cast<uint64_t>(i + 1))));
  }
}

}  // namespace

void FillRandomTensor(std::string_view name,
                      int64_t count,
                      RandomKind kind,
                      DType dtype,
                      uint64_t seed,
                      std::byte* to) {
  uint64_t key = Mix(seed + kGolden);
  for (const char letter : name) {
    key = Mix(key ^ static_cast<unsigned char>(letter));
  }
  const auto fill = [=](int64_t first, int64_t last) {
    if (dtype == DType::kF32) {
      Fill(reinterpret_cast<float*>(to), first, last, kind, key, [](float x) { return x; });
    } else if (dtype == DType::kBf16) {
      Fill(reinterpret_cast<Bf16*>(to), first, last, kind, key, ToBf16);
    } else {
      Fill(reinterpret_cast<F16*>(to), first, last, kind, key, ToF16);
    }
  };
  constexpr int64_t kWorthAThread = 1 << 20;  // a millisecond or so
  const int64_t cores = std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t pieces = std::clamp<int64_t>(count / kWorthAThread, 1, cores);
  std::vector<std::jthread> threads;
  for (int64_t piece = 1; piece < pieces; ++piece) {
    threads.emplace_back(fill, count * piece / pieces, count * (piece + 1) / pieces);
  }
  fill(0, count / pieces);  // the others join at the end
}

}  // namespace ringserve
