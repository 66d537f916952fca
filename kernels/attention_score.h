// What some models do to scores before the softmax: soft-capping and biases by distance. Internal
// to the attention family.
#pragma once

#include <cstdint>

namespace ringserve {

// score -> log2(e) * (softcap * tanh(score * scale / softcap) + bias), without the tanh if softcap
// is 0.
struct ScoreRule {
  float scale = 0;
  float softcap = 0;
  // Null: no biases. Otherwise [.., 2 * reach + 1]: row r of the item reads
  // bias[bias_rows[r], reach + d] for a key that stands d after it, d held to [-reach, reach].
  const float* bias = nullptr;
  const int32_t* bias_rows = nullptr;
  const int64_t* positions = nullptr;  // of the item's rows
  int64_t first_position = 0;          // of lane 0
  int32_t reach = 0;
};

// The 64 scores of row `row` in place. The bits of a score depend on it and on its distance alone.
void AdjustScores(const ScoreRule& rule, int32_t row, float* scores);

}  // namespace ringserve
