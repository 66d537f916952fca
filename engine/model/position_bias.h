// The table of biases by distance that attention reads, from a checkpoint's biases by bucket
// (Raffel et al. 2020, as Hugging Face's T5 computes buckets).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/model_config.h"

namespace ringserve {

// How far distances differ: beyond it, all are in the last bucket (AttentionArgs::bias_reach).
int32_t BiasReach(const PositionBiasConfig& config);

// The bucket, in [0, num_buckets), of a key that stands `distance` after its query. A decoder has
// buckets for keys before the query alone; bidirectional, half of them are for those after it.
int32_t PositionBucket(const PositionBiasConfig& config, bool bidirectional, int64_t distance);

// [num_heads, 2 * BiasReach + 1] from [num_buckets, num_heads].
std::vector<float> BiasTable(const PositionBiasConfig& config,
                             bool bidirectional,
                             std::span<const float> by_bucket,
                             int32_t num_heads);

}  // namespace ringserve
