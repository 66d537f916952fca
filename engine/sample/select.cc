#include "engine/sample/select.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <limits>

#include "engine/base/check.h"
#include "engine/sample/softmax.h"

namespace ringserve {
namespace {

// Few enough that picking among the lanes' maxima costs nothing, enough for the usual top_k.
constexpr size_t kLanes = 512;

// A logit that at least `count` tokens reach, so that nothing below it is in the top `count`: the
// count-th largest of the maxima of kLanes disjoint sets.
float TopFloor(std::span<const float> logits, int64_t count) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  if (count > static_cast<int64_t>(kLanes) || logits.size() < 2 * kLanes) {
    return kLowest;
  }
  std::array<float, kLanes> max;
  max.fill(kLowest);
  size_t first = 0;
  for (; first + kLanes <= logits.size(); first += kLanes) {
    const float* x = logits.data() + first;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      max[lane] = x[lane] > max[lane] ? x[lane] : max[lane];
    }
  }
  for (size_t lane = 0; first + lane < logits.size(); ++lane) {
    max[lane] = std::max(max[lane], logits[first + lane]);
  }
  const auto nth = max.begin() + (count - 1);
  std::nth_element(max.begin(), nth, max.end(), std::greater<>());
  return *nth;
}

uint64_t MedianOfThree(uint64_t a, uint64_t b, uint64_t c) {
  return std::max(std::min(a, b), std::min(std::max(a, b), c));
}

}  // namespace

void CollectTop(std::span<const float> logits, int64_t count, std::vector<uint64_t>& keys) {
  keys.clear();
  const float floor = TopFloor(logits, count);
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] >= floor) {
      keys.push_back(RankKey(logits[i], static_cast<int32_t>(i)));
    }
  }
}

void KeepTop(int64_t count, std::vector<uint64_t>& keys) {
  if (count >= static_cast<int64_t>(keys.size())) {
    return;
  }
  std::nth_element(keys.begin(), keys.begin() + count, keys.end(), std::greater<>());
  keys.resize(static_cast<size_t>(count));
}

uint64_t CutByMass(std::span<uint64_t> keys, double mass, float max_logit, float temperature) {
  RS_CHECK(!keys.empty());
  // Quickselect by weight: everything before `rest` is known to be kept.
  std::span<uint64_t> rest = keys;
  double kept = 0;
  while (rest.size() > 1) {
    const uint64_t pivot = MedianOfThree(rest.front(), rest[rest.size() / 2], rest.back());
    // Keys are distinct, so both sides are smaller than the whole.
    const auto middle =
        std::partition(rest.begin(), rest.end(), [pivot](uint64_t key) { return key > pivot; });
    const auto num_above = static_cast<size_t>(middle - rest.begin());
    double above = 0;
    for (const uint64_t key : rest.first(num_above)) {
      above += ExpWeight(LogitOf(key), max_logit, temperature);
    }
    if (num_above > 0 && kept + above >= mass) {
      rest = rest.first(num_above);
      continue;
    }
    kept += above + ExpWeight(LogitOf(pivot), max_logit, temperature);
    if (kept >= mass) {
      return pivot;
    }
    std::swap(*std::find(middle, rest.end(), pivot), *middle);
    rest = rest.subspan(num_above + 1);
    if (rest.empty()) {
      return pivot;
    }
  }
  return rest.front();
}

}  // namespace ringserve
