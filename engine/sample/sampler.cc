#include "engine/sample/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

#include "engine/sample/select.h"
#include "engine/sample/softmax.h"

namespace ringserve {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Where the top of the distribution is looked for first; usual nuclei are smaller.
constexpr int64_t kNucleusGuess = 128;

// Kept between rows, so that sampling allocates nothing once warm.
struct Scratch {
  std::vector<float> logits;
  std::vector<uint64_t> keys;
};

// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
constexpr uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

constexpr uint64_t kGoldenGamma = 0x9e3779b97f4a7c15U;

constexpr uint64_t NoiseKey(uint64_t seed, int64_t position) {
  return Mix(Mix(seed + kGoldenGamma) + static_cast<uint64_t>(position) * kGoldenGamma);
}

constexpr uint64_t NoiseBits(uint64_t key, int32_t token_id) {
  return Mix(key + (static_cast<uint64_t>(token_id) + 1) * kGoldenGamma);
}

double GumbelOf(uint64_t bits) {
  const double uniform = (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;  // in (0, 1)
  return -std::log(-std::log1p(-uniform));
}

// GumbelOf(bits) is not larger: -log(-log1p(-u)) <= -log(u), and u >= 2^-(leading zeros + 1).
double GumbelBound(uint64_t bits) {
  return (std::countl_zero(bits | 1U) + 1) * std::numbers::ln2 + 1e-9;
}

// By eight bits of a mask, what to add to eight logits: 0 where a bit is set, else -infinity.
using MaskTable = std::array<std::array<float, 8>, 256>;

constexpr MaskTable MakeMaskTable() {
  MaskTable table{};
  for (size_t bits = 0; bits < table.size(); ++bits) {
    for (size_t i = 0; i < 8; ++i) {
      table[bits][i] = (bits >> i & 1) != 0 ? 0.0F : kMinusInfinity;
    }
  }
  return table;
}

// Leaves only what the row's constraint allows.
void Constrain(const SampleRow& row, std::vector<float>& logits) {
  static constexpr MaskTable kTable = MakeMaskTable();
  std::vector<std::pair<size_t, float>> kept;
  for (const int32_t token_id : row.also_allowed) {
    kept.emplace_back(static_cast<size_t>(token_id), logits[static_cast<size_t>(token_id)]);
  }
  const size_t num_whole = logits.size() / 8;
  for (size_t eight = 0; eight < num_whole; ++eight) {
    const std::array<float, 8>& add = kTable[row.allowed[eight / 8] >> (eight % 8 * 8) & 0xff];
    float* const at = logits.data() + eight * 8;
    for (size_t i = 0; i < 8; ++i) {
      at[i] += add[i];
    }
  }
  for (size_t i = num_whole * 8; i < logits.size(); ++i) {
    const bool allowed = (row.allowed[i / 64] >> (i % 64) & 1) != 0;
    const float add = allowed ? 0.0F : kMinusInfinity;
    logits[i] += add;
  }
  for (const auto& [token, logit] : kept) {
    logits[token] = logit;
  }
}

// Bans, the constraint, biases and penalties, into `logits`.
void Adjust(const SampleRow& row, std::vector<float>& logits) {
  const SamplingParams& params = *row.params;
  const auto at = [&logits](int32_t token_id) -> float& {
    return logits[static_cast<size_t>(token_id)];
  };
  for (const int32_t token_id : row.banned) {
    at(token_id) = kMinusInfinity;
  }
  if (!row.allowed.empty()) {
    Constrain(row, logits);
  }
  for (const auto& [token_id, bias] : params.logit_bias) {
    at(token_id) += bias;
  }
  if (row.history == nullptr) {
    return;
  }
  const auto penalize = [&](int32_t token_id, int64_t output_count) {
    float& logit = at(token_id);
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (output_count > 0) {
      logit -=
          params.presence_penalty + params.frequency_penalty * static_cast<float>(output_count);
    }
    logit = std::min(logit, std::numeric_limits<float>::max());
  };
  const auto count_drafted = [&row](int32_t token_id) {
    return std::count(row.drafted.begin(), row.drafted.end(), token_id);
  };
  for (const TokenHistory::Entry& entry : row.history->entries()) {
    penalize(entry.token_id, entry.output_count + count_drafted(entry.token_id));
  }
  for (auto drafted = row.drafted.begin(); drafted != row.drafted.end(); ++drafted) {
    const bool is_first = std::find(row.drafted.begin(), drafted, *drafted) == drafted;
    if (is_first && !row.history->Has(*drafted)) {
      penalize(*drafted, count_drafted(*drafted));
    }
  }
}

// The lowest rank key that top_k, top_p and min_p keep; 0 if they keep all.
uint64_t Cut(std::span<const float> logits,
             float max,
             const SamplingParams& params,
             std::vector<uint64_t>& keys) {
  const auto vocab_size = static_cast<int64_t>(logits.size());
  const bool has_top_k = params.top_k > 0 && params.top_k < vocab_size;
  const bool has_top_p = params.top_p < 1.0F;
  uint64_t cut = 0;
  if (has_top_k) {
    CollectTop(logits, params.top_k, keys);
    KeepTop(params.top_k, keys);
    cut = *std::min_element(keys.begin(), keys.end());
  }
  if (has_top_p) {
    const auto mass_of = [&] {
      double mass = 0;
      for (const uint64_t key : keys) {
        mass += ExpWeight(LogitOf(key), max, params.temperature);
      }
      return mass;
    };
    double wanted = params.top_p;
    if (has_top_k) {
      wanted *= mass_of();
    } else {
      wanted *= SumExp(logits, max, params.temperature);
      CollectTop(logits, kNucleusGuess, keys);
      KeepTop(kNucleusGuess, keys);
      if (mass_of() < wanted) {
        CollectTop(logits, vocab_size, keys);
      }
    }
    cut = std::max(cut, CutByMass(keys, wanted, max, params.temperature));
  }
  if (params.min_p > 0.0F) {
    // exp((logit - max) / temperature) >= min_p
    const float floor = max + params.temperature * std::log(params.min_p);
    cut = std::max(cut, RankKey(floor, std::numeric_limits<int32_t>::max()));
  }
  return cut;
}

// Requires a finite max.
int32_t DrawToken(std::span<const float> logits, float max, const SampleRow& row, uint64_t cut) {
  const SamplingParams& params = *row.params;
  const uint64_t key = NoiseKey(params.seed, row.position);
  const float floor = cut == 0 ? kMinusInfinity : LogitOf(cut);
  double best = -std::numeric_limits<double>::infinity();
  int32_t best_token = kNoToken;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] >= floor) || logits[i] == kMinusInfinity) {
      continue;
    }
    const auto token_id = static_cast<int32_t>(i);
    const auto scaled = static_cast<double>((logits[i] - max) / params.temperature);
    const uint64_t bits = NoiseBits(key, token_id);
    if (scaled + GumbelBound(bits) <= best || RankKey(logits[i], token_id) < cut) {
      continue;
    }
    const double score = scaled + GumbelOf(bits);
    if (score > best || best_token == kNoToken) {
      best = score;
      best_token = token_id;
    }
  }
  return best_token;
}

// The lowest id with the largest logit.
int32_t FirstMax(std::span<const float> logits, float max) {
  const auto found = std::find(logits.begin(), logits.end(), max);
  return static_cast<int32_t>(found - logits.begin());
}

int32_t ChooseToken(std::span<const float> raw,
                    const LogitScan& raw_scan,
                    const SampleRow& row,
                    Scratch& scratch) {
  std::span<const float> logits = raw;
  float max = raw_scan.max;
  if (ChangesLogits(row)) {
    scratch.logits.assign(raw.begin(), raw.end());
    Adjust(row, scratch.logits);
    logits = scratch.logits;
    max = ScanLogits(logits).max;
  }
  if (max == kMinusInfinity) {
    return kNoToken;
  }
  if (row.params->temperature == 0.0F) {
    return FirstMax(logits, max);
  }
  return DrawToken(logits, max, row, Cut(logits, max, *row.params, scratch.keys));
}

}  // namespace

bool ChangesLogits(const SampleRow& row) {
  const SamplingParams& params = *row.params;
  const bool has_penalty = params.repetition_penalty != 1.0F || params.presence_penalty != 0.0F ||
                           params.frequency_penalty != 0.0F;
  return !row.banned.empty() || !row.allowed.empty() || !params.logit_bias.empty() ||
         (has_penalty && row.history != nullptr);
}

double GumbelNoise(uint64_t seed, int64_t position, int32_t token_id) {
  return GumbelOf(NoiseBits(NoiseKey(seed, position), token_id));
}

ScoredToken SampleLogits(const float* logits, int32_t vocab_size, const SampleRow& row) {
  thread_local Scratch scratch;
  const std::span<const float> raw(logits, static_cast<size_t>(vocab_size));
  const LogitScan scan = ScanLogits(raw);
  ScoredToken result;
  result.token.token_id = kNoToken;
  if (!scan.is_sound || scan.max == kMinusInfinity) {
    return result;
  }
  const int32_t token_id =
      row.params == nullptr ? row.forced_token : ChooseToken(raw, scan, row, scratch);
  if (token_id == kNoToken) {
    return result;
  }
  const double log_sum = static_cast<double>(scan.max) + std::log(SumExp(raw, scan.max, 1.0F));
  const auto logprob = [log_sum](float logit) {
    return static_cast<float>(static_cast<double>(logit) - log_sum);
  };
  result.token = {token_id, logprob(raw[static_cast<size_t>(token_id)])};
  if (row.num_logprobs > 0) {
    CollectTop(raw, row.num_logprobs, scratch.keys);
    KeepTop(row.num_logprobs, scratch.keys);
    std::sort(scratch.keys.begin(), scratch.keys.end(), std::greater<>());
    for (const uint64_t key : scratch.keys) {
      result.alternatives.push_back({TokenOf(key), logprob(LogitOf(key))});
    }
  }
  return result;
}

}  // namespace ringserve
