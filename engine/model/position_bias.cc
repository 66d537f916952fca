#include "engine/model/position_bias.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>

namespace ringserve {

int32_t BiasReach(const PositionBiasConfig& config) {
  return config.max_distance;
}

int32_t PositionBucket(const PositionBiasConfig& config, bool bidirectional, int64_t distance) {
  int32_t num_buckets = config.num_buckets;
  int32_t first = 0;
  int64_t size = std::max<int64_t>(-distance, 0);
  if (bidirectional) {
    num_buckets /= 2;
    first = distance > 0 ? num_buckets : 0;
    size = std::abs(distance);
  }
  const int32_t num_exact = num_buckets / 2;
  if (size < num_exact) {
    return first + static_cast<int32_t>(size);
  }
  // In float32, so that a distance on the edge of two buckets falls where it fell in training.
  const auto exact = static_cast<float>(num_exact);
  const auto span = static_cast<float>(
      std::log(static_cast<double>(config.max_distance) / static_cast<double>(num_exact)));
  const float share = std::log(static_cast<float>(size) / exact) / span;
  const float place = share * static_cast<float>(num_buckets - num_exact);
  const int64_t bucket = num_exact + static_cast<int64_t>(place);
  return first + static_cast<int32_t>(std::min<int64_t>(bucket, num_buckets - 1));
}

std::vector<float> BiasTable(const PositionBiasConfig& config,
                             bool bidirectional,
                             std::span<const float> by_bucket,
                             int32_t num_heads) {
  const int64_t reach = BiasReach(config);
  std::vector<float> table;
  table.reserve(static_cast<size_t>(num_heads * (2 * reach + 1)));
  for (int32_t head = 0; head < num_heads; ++head) {
    for (int64_t distance = -reach; distance <= reach; ++distance) {
      const int64_t bucket = PositionBucket(config, bidirectional, distance);
      table.push_back(by_bucket[static_cast<size_t>(bucket * num_heads + head)]);
    }
  }
  return table;
}

}  // namespace ringserve
