// Partial selection over logits: the top of the order without sorting the rest. Tokens are ranked
// by logit, ties by lower id; a rank key packs both so that larger keys rank higher.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace ringserve {

// `logit` is not NaN. 0 and -0 rank alike.
constexpr uint64_t RankKey(float logit, int32_t token_id) {
  const auto bits = std::bit_cast<uint32_t>(logit + 0.0F);
  const uint32_t ordered = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return (uint64_t{ordered} << 32) | (0xffffffffU - static_cast<uint32_t>(token_id));
}

constexpr int32_t TokenOf(uint64_t key) {
  return static_cast<int32_t>(0xffffffffU - static_cast<uint32_t>(key));
}

constexpr float LogitOf(uint64_t key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return std::bit_cast<float>((ordered & 0x80000000U) != 0 ? ordered & 0x7fffffffU : ~ordered);
}

// Replaces `keys` by the keys of a set of tokens that holds the `count` highest ranks (all tokens
// if there are fewer) and, unless logits are all alike, not many more.
void CollectTop(std::span<const float> logits, int64_t count, std::vector<uint64_t>& keys);

// Leaves the `count` highest ranks in `keys`, in no order.
void KeepTop(int64_t count, std::vector<uint64_t>& keys);

// The key of the last token of the smallest set of highest ranks whose mass reaches `mass`, where a
// token weighs exp((logit - max_logit) / temperature); the lowest key if all together do not.
// Reorders `keys`; expected time O(keys). Requires keys not empty, temperature > 0.
uint64_t CutByMass(std::span<uint64_t> keys, double mass, float max_logit, float temperature);

}  // namespace ringserve
