// Logits to a token id. The result depends on the row's own logits and parameters alone, bit for
// bit: not on other rows, threads or time. O(vocab_size): nothing is sorted whole.
//
// In the order of SamplingParams' fields: banned ids, ids that a constraint allows, logit_bias;
// repetition, presence and frequency penalties; temperature; then the kept set is what top_k, top_p
// (over what top_k kept) and min_p all keep, tokens ranked by logit with ties by lower id. Of the
// kept set the token with the largest logit / temperature + noise wins (the Gumbel-max trick: a
// draw from the softmax of the kept set); temperature 0 takes the first in rank.
#pragma once

#include <cstdint>
#include <span>

#include "engine/request.h"
#include "engine/sample/token_history.h"

namespace ringserve {

// What one row of logits is for.
struct SampleRow {
  int32_t logits_row = 0;
  int64_t position = 0;                    // of the token to be chosen; keys the noise
  const SamplingParams* params = nullptr;  // null: score `forced_token` instead of sampling
  const TokenHistory* history = nullptr;   // for penalties; null if params need none
  std::span<const int32_t> drafted = {};   // output tokens that come after those of the history
  std::span<const int32_t> banned = {};    // ids that must not be sampled (min_tokens)
  // A bit per id that may be sampled (TokenConstraint::Allowed), and ids that may be beside those;
  // empty `allowed`: all may.
  std::span<const uint64_t> allowed = {};
  std::span<const int32_t> also_allowed = {};
  int32_t forced_token = -1;
  int32_t num_logprobs = 0;  // alternatives wanted
};

// ScoredToken::token.token_id of a row from which nothing can be sampled.
inline constexpr int32_t kNoToken = -1;

// Logprobs and alternatives are those of `logits` as they came. kNoToken if a logit is NaN or
// +infinity, or if every token is banned or has logit -infinity. Ids in `row` are in range. Any
// thread.
ScoredToken SampleLogits(const float* logits, int32_t vocab_size, const SampleRow& row);

// True if bans, a constraint, biases or penalties change the row's logits. Requires params.
bool ChangesLogits(const SampleRow& row);

// Noise of a token: Gumbel-distributed, a function of the arguments alone.
double GumbelNoise(uint64_t seed, int64_t position, int32_t token_id);

}  // namespace ringserve
