// The sampler against an obvious one: everything in float64, everything sorted.
#include "engine/sample/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "engine/sample/replay_digest.h"
#include "engine/sample/select.h"
#include "engine/sample/softmax.h"
#include "tests/support/catch.h"

namespace ringserve {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

ScoredToken Sample(const std::vector<float>& logits, const SampleRow& row) {
  return SampleLogits(logits.data(), static_cast<int32_t>(logits.size()), row);
}

std::vector<float> RandomLogits(std::mt19937_64& random, size_t vocab_size, double spread) {
  std::normal_distribution<double> normal(0, spread);
  std::vector<float> logits(vocab_size);
  for (float& logit : logits) {
    logit = static_cast<float>(normal(random));
  }
  return logits;
}

// Token ids by rank: logit, then lower id.
std::vector<int32_t> Ranked(const std::vector<double>& logits) {
  std::vector<int32_t> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(i);
  }
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  return ids;
}

struct Obvious {
  int32_t token_id = -1;
  bool is_close = false;  // a decision hangs on less than float32 can tell
};

std::vector<double> AdjustObviously(const std::vector<float>& raw, const SampleRow& row) {
  std::vector<double> logits(raw.begin(), raw.end());
  for (const int32_t id : row.banned) {
    logits[static_cast<size_t>(id)] = -static_cast<double>(kInf);
  }
  for (size_t i = 0; i < logits.size() && !row.allowed.empty(); ++i) {
    const bool is_allowed = (row.allowed[i / 64] >> (i % 64) & 1) != 0 ||
                            std::count(row.also_allowed.begin(), row.also_allowed.end(), i) > 0;
    logits[i] = is_allowed ? logits[i] : -static_cast<double>(kInf);
  }
  for (const auto& [id, bias] : row.params->logit_bias) {
    logits[static_cast<size_t>(id)] += static_cast<double>(bias);
  }
  if (row.history != nullptr) {
    for (const TokenHistory::Entry& entry : row.history->entries()) {
      double& logit = logits[static_cast<size_t>(entry.token_id)];
      const double penalty = row.params->repetition_penalty;
      logit = logit > 0 ? logit / penalty : logit * penalty;
      if (entry.output_count > 0) {
        logit -= static_cast<double>(row.params->presence_penalty) +
                 static_cast<double>(row.params->frequency_penalty) *
                     static_cast<double>(entry.output_count);
      }
    }
  }
  return logits;
}

Obvious SampleObviously(const std::vector<float>& raw, const SampleRow& row) {
  constexpr double kClose = 1e-4;
  const SamplingParams& params = *row.params;
  const std::vector<double> logits = AdjustObviously(raw, row);
  const std::vector<int32_t> ranked = Ranked(logits);
  const auto at = [&](size_t rank) { return logits[static_cast<size_t>(ranked[rank])]; };
  Obvious result;
  if (at(0) == -static_cast<double>(kInf)) {
    return result;
  }
  if (params.temperature == 0.0F) {
    result.token_id = ranked[0];
    result.is_close = ranked.size() > 1 && at(0) - at(1) < kClose;
    return result;
  }
  size_t kept = ranked.size();
  if (params.top_k > 0) {
    kept = std::min(kept, static_cast<size_t>(params.top_k));
    result.is_close |= kept < ranked.size() && at(kept - 1) - at(kept) < kClose;
  }
  const double temperature = params.temperature;
  const auto weight = [&](size_t rank) { return std::exp((at(rank) - at(0)) / temperature); };
  double total = 0;
  for (size_t i = 0; i < kept; ++i) {
    total += weight(i);
  }
  size_t nucleus = 0;
  for (double mass = 0; nucleus < kept && mass < params.top_p * total;) {
    mass += weight(nucleus++);
    result.is_close |= params.top_p < 1 && std::abs(mass / total - params.top_p) < kClose;
  }
  size_t end = 0;
  while (end < (params.top_p < 1 ? nucleus : kept) && weight(end) >= params.min_p) {
    ++end;
  }
  for (size_t i = 0; i < kept; ++i) {
    result.is_close |= std::abs(weight(i) - params.min_p) < kClose * params.min_p;
  }
  double best = -static_cast<double>(kInf);
  double second = -static_cast<double>(kInf);
  for (size_t i = 0; i < end; ++i) {
    const double score =
        (at(i) - at(0)) / temperature + GumbelNoise(params.seed, row.position, ranked[i]);
    if (score > best) {
      second = best;
      best = score;
      result.token_id = ranked[i];
    } else {
      second = std::max(second, score);
    }
  }
  result.is_close |= best - second < kClose;
  return result;
}

SamplingParams RandomParams(std::mt19937_64& random, int32_t vocab_size) {
  const auto one_in = [&](uint64_t n) { return random() % n == 0; };
  const auto uniform = [&](float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(random);
  };
  SamplingParams params;
  params.temperature = one_in(6) ? 0.0F : one_in(3) ? 1.0F : uniform(0.05F, 3.0F);
  params.top_k = one_in(2) ? 0 : static_cast<int32_t>(1 + random() % (vocab_size + 5));
  params.top_p = one_in(2) ? 1.0F : uniform(0.01F, 1.0F);
  params.min_p = one_in(2) ? 0.0F : uniform(0.0F, 0.3F);
  params.repetition_penalty = one_in(2) ? 1.0F : uniform(0.5F, 2.0F);
  params.presence_penalty = one_in(2) ? 0.0F : uniform(-2.0F, 2.0F);
  params.frequency_penalty = one_in(2) ? 0.0F : uniform(-2.0F, 2.0F);
  params.seed = random();
  for (uint64_t i = random() % 4; i > 0; --i) {
    params.logit_bias.emplace_back(static_cast<int32_t>(random() % vocab_size),
                                   one_in(4) ? -kInf : uniform(-10.0F, 10.0F));
  }
  return params;
}

TEST_CASE("the sampler agrees with the obvious one") {
  std::mt19937_64 random(11);
  int num_close = 0;
  int num_cases = 0;
  for (const int32_t vocab_size : {1, 2, 17, 600, 1500, 3001}) {
    for (int i = 0; i < 400; ++i, ++num_cases) {
      const std::vector<float> logits = RandomLogits(random,
                                                     static_cast<size_t>(vocab_size),
                                                     i % 3 == 0   ? 0.1
                                                     : i % 3 == 1 ? 2
                                                                  : 8);
      const SamplingParams params = RandomParams(random, vocab_size);
      TokenHistory history;
      std::vector<int32_t> banned;
      for (uint64_t n = random() % 20; n > 0; --n) {
        const auto token_id = static_cast<int32_t>(random() % vocab_size);
        if (n % 2 == 0) {
          history.AddOutput(token_id);
        } else {
          history.AddPrompt({&token_id, 1});
        }
      }
      if (random() % 3 == 0) {
        banned.push_back(static_cast<int32_t>(random() % vocab_size));
      }
      std::vector<uint64_t> allowed;
      std::vector<int32_t> also_allowed;
      if (random() % 3 == 0) {
        for (size_t word = 0; word < (logits.size() + 63) / 64; ++word) {
          allowed.push_back(random() % 2 == 0 ? random() : 0);
        }
        for (size_t token_id = 0; token_id < 4; ++token_id) {
          also_allowed.push_back(static_cast<int32_t>((token_id * 17 + 1) % logits.size()));
        }
      }
      const SampleRow row = {.position = static_cast<int64_t>(random() % 100000),
                             .params = &params,
                             .history = random() % 2 == 0 ? &history : nullptr,
                             .banned = banned,
                             .allowed = allowed,
                             .also_allowed = also_allowed};
      const Obvious obvious = SampleObviously(logits, row);
      if (obvious.is_close) {
        ++num_close;
        continue;
      }
      CAPTURE(vocab_size, i, params.temperature, params.top_k, params.top_p, params.min_p);
      REQUIRE(Sample(logits, row).token.token_id == obvious.token_id);
    }
  }
  REQUIRE(num_close < num_cases / 5);
}

TEST_CASE("draws follow the softmax of the kept set") {
  const std::vector<float> logits = {0.0F, 1.0F, 2.0F, -1.0F, 0.5F, 1.5F, -3.0F, 0.25F};
  for (const bool cut : {false, true}) {
    SamplingParams params;
    params.temperature = 0.8F;
    params.top_k = cut ? 5 : 0;
    params.seed = 99;
    std::vector<double> expected(logits.size(), 0.0);
    double total = 0;
    for (const int32_t id :
         cut ? std::vector<int32_t>{2, 5, 1, 4, 7} : std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7}) {
      expected[static_cast<size_t>(id)] = std::exp(logits[static_cast<size_t>(id)] / 0.8);
      total += expected[static_cast<size_t>(id)];
    }
    constexpr int kDraws = 40000;
    std::vector<int> seen(logits.size(), 0);
    for (int i = 0; i < kDraws; ++i) {
      params.seed = i % 2 == 0 ? 99 : 100;
      const ScoredToken drawn = Sample(logits, {.position = i / 2, .params = &params});
      ++seen[static_cast<size_t>(drawn.token.token_id)];
    }
    double chi_square = 0;
    for (size_t id = 0; id < logits.size(); ++id) {
      const double mean = kDraws * expected[id] / total;
      if (mean == 0) {
        REQUIRE(seen[id] == 0);
      } else {
        chi_square += (seen[id] - mean) * (seen[id] - mean) / mean;
      }
    }
    CAPTURE(cut, chi_square);
    REQUIRE(chi_square < 24.3);  // 99.9 % point of 7 degrees of freedom
  }
}

TEST_CASE("logprobs are the model's own, whatever the parameters") {
  std::mt19937_64 random(12);
  for (const size_t vocab_size : {1, 5, 255, 256, 257, 4096, 32000}) {
    const std::vector<float> logits = RandomLogits(random, vocab_size, 6);
    double sum = 0;
    for (const float logit : logits) {
      sum += std::exp(static_cast<double>(logit));
    }
    SamplingParams params;
    params.temperature = 1.7F;
    params.top_k = 3;
    params.logit_bias = {{0, 50.0F}};
    const ScoredToken got = Sample(logits, {.params = &params, .num_logprobs = 20});
    const auto truth = [&](int32_t id) {
      return static_cast<double>(logits[static_cast<size_t>(id)]) - std::log(sum);
    };
    const auto check = [&](const TokenLogprob& token) {
      const double expected = truth(token.token_id);
      REQUIRE(std::abs(token.logprob - expected) <= 1e-6 * std::max(1.0, std::abs(expected)));
    };
    check(got.token);
    const std::vector<int32_t> ranked = Ranked({logits.begin(), logits.end()});
    REQUIRE(got.alternatives.size() == std::min<size_t>(20, vocab_size));
    for (size_t i = 0; i < got.alternatives.size(); ++i) {
      REQUIRE(got.alternatives[i].token_id == ranked[i]);
      check(got.alternatives[i]);
    }
    const auto forced = static_cast<int32_t>(random() % vocab_size);
    const ScoredToken scored = Sample(logits, {.forced_token = forced});
    REQUIRE(scored.token.token_id == forced);
    REQUIRE(scored.alternatives.empty());
    check(scored.token);
  }
}

TEST_CASE("ties go to the lowest id") {
  SamplingParams greedy;
  greedy.temperature = 0;
  std::vector<float> logits(1000, 1.0F);
  logits[3] = 2.0F;
  logits[500] = 2.0F;
  REQUIRE(Sample(logits, {.params = &greedy}).token.token_id == 3);
  REQUIRE(Sample({-0.0F, 0.0F, -0.0F}, {.params = &greedy}).token.token_id == 0);
  const ScoredToken got = Sample(logits, {.params = &greedy, .num_logprobs = 4});
  std::vector<int32_t> ids;
  for (const TokenLogprob& alternative : got.alternatives) {
    ids.push_back(alternative.token_id);
  }
  REQUIRE(ids == std::vector<int32_t>{3, 500, 0, 1});
  SamplingParams top_k;
  top_k.top_k = 3;
  for (int64_t position = 0; position < 500; ++position) {
    const int32_t id = Sample(logits, {.position = position, .params = &top_k}).token.token_id;
    REQUIRE((id == 3 || id == 500 || id == 0));
  }
}

TEST_CASE("rows without a choice say so") {
  SamplingParams greedy;
  greedy.temperature = 0;
  const SamplingParams sampled;
  for (const SamplingParams* params :
       std::initializer_list<const SamplingParams*>{&greedy, &sampled}) {
    for (size_t bad = 0; bad < 40; ++bad) {
      std::vector<float> logits(40, 1.0F);
      logits[bad] = kNan;
      REQUIRE(Sample(logits, {.params = params}).token.token_id == kNoToken);
      logits[bad] = kInf;
      REQUIRE(Sample(logits, {.params = params}).token.token_id == kNoToken);
      logits[bad] = -kInf;
      REQUIRE(Sample(logits, {.params = params}).token.token_id != kNoToken);
    }
    REQUIRE(Sample({-kInf, -kInf}, {.params = params}).token.token_id == kNoToken);
    const std::vector<int32_t> banned = {0, 1};
    REQUIRE(Sample({1, 2}, {.params = params, .banned = banned}).token.token_id == kNoToken);
    REQUIRE(Sample({1, 2, -kInf}, {.params = params, .banned = banned}).token.token_id == kNoToken);
    REQUIRE(Sample({1, 2, -50}, {.params = params, .banned = banned}).token.token_id == 2);
  }
  REQUIRE(Sample({1, kNan}, {.forced_token = 0}).token.token_id == kNoToken);
  REQUIRE(Sample({1, -kInf}, {.forced_token = 1}).token.logprob == -kInf);
}

TEST_CASE("extreme parameters stay sound") {
  const std::vector<float> logits = {3e38F, -3e38F, 1.0F, 3e38F};
  TokenHistory history;
  for (const int32_t id : {0, 1, 2}) {
    history.AddOutput(id);
  }
  for (const float temperature : {0.0F, 1e-45F, 1e-30F, 1.0F, 100.0F}) {
    SamplingParams params;
    params.temperature = temperature;
    params.repetition_penalty = 1e-3F;
    params.frequency_penalty = -2.0F;
    params.top_p = 0.5F;
    params.min_p = 1.0F;
    const ScoredToken got =
        Sample(logits, {.params = &params, .history = &history, .num_logprobs = 4});
    REQUIRE(got.token.token_id == 0);
    REQUIRE(!std::isnan(got.token.logprob));
  }
}

TEST_CASE("noise depends on seed, position and token alone") {
  REQUIRE(GumbelNoise(1, 2, 3) == GumbelNoise(1, 2, 3));
  REQUIRE(GumbelNoise(1, 2, 3) != GumbelNoise(2, 2, 3));
  REQUIRE(GumbelNoise(1, 2, 3) != GumbelNoise(1, 3, 3));
  REQUIRE(GumbelNoise(1, 2, 3) != GumbelNoise(1, 2, 4));
  double mean = 0;
  for (int i = 0; i < 100000; ++i) {
    const double noise = GumbelNoise(7, i / 10, i % 10);
    REQUIRE(std::isfinite(noise));
    mean += noise / 100000;
  }
  REQUIRE(mean == Approx(0.5772).margin(0.015));  // Euler's constant

  // Other rows, other threads: the same bits.
  std::mt19937_64 random(13);
  std::vector<std::vector<float>> rows;
  std::vector<SamplingParams> params;
  for (int i = 0; i < 50; ++i) {
    rows.push_back(RandomLogits(random, 700, 3));
    params.push_back(RandomParams(random, 700));
  }
  const auto draw = [&](size_t i) {
    return Sample(rows[i], {.position = static_cast<int64_t>(i), .params = &params[i]}).token;
  };
  std::vector<TokenLogprob> alone;
  for (size_t i = 0; i < rows.size(); ++i) {
    std::thread([&] { alone.push_back(draw(i)); }).join();
  }
  for (size_t i = rows.size(); i-- > 0;) {
    const TokenLogprob token = draw(i);
    REQUIRE(token.token_id == alone[i].token_id);
    REQUIRE(std::bit_cast<uint32_t>(token.logprob) == std::bit_cast<uint32_t>(alone[i].logprob));
  }
}

TEST_CASE("selection agrees with sorting") {
  std::mt19937_64 random(14);
  for (const size_t size : {1, 2, 100, 1023, 1024, 5000}) {
    for (int i = 0; i < 60; ++i) {
      std::vector<float> logits = RandomLogits(random, size, 2);
      if (i % 3 == 0) {  // many ties
        for (float& logit : logits) {
          logit = std::round(logit);
        }
      }
      if (i % 10 == 0) {
        logits[random() % size] = -kInf;
      }
      std::vector<uint64_t> sorted;
      for (size_t id = 0; id < size; ++id) {
        sorted.push_back(RankKey(logits[id], static_cast<int32_t>(id)));
        REQUIRE(TokenOf(sorted.back()) == static_cast<int32_t>(id));
        REQUIRE(LogitOf(sorted.back()) == logits[id]);
      }
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      const auto count = static_cast<int64_t>(1 + random() % (size + 3));
      std::vector<uint64_t> keys;
      CollectTop(logits, count, keys);
      KeepTop(count, keys);
      std::sort(keys.begin(), keys.end(), std::greater<>());
      sorted.resize(std::min(size, static_cast<size_t>(count)));
      REQUIRE(keys == sorted);

      const float max = LogitOf(sorted[0]);
      if (max == -kInf) {
        continue;
      }
      double total = 0;
      for (const uint64_t key : sorted) {
        total += ExpWeight(LogitOf(key), max, 1.0F);
      }
      const double wanted = total * std::uniform_real_distribution<double>(0, 1.1)(random);
      size_t cut = 0;
      double mass = 0;
      while (cut < sorted.size() && (mass += ExpWeight(LogitOf(sorted[cut]), max, 1.0F)) < wanted) {
        ++cut;
      }
      std::shuffle(keys.begin(), keys.end(), random);
      if (std::abs(mass - wanted) > 1e-9 * total) {
        REQUIRE(CutByMass(keys, wanted, max, 1.0F) == sorted[std::min(cut, sorted.size() - 1)]);
      }
    }
  }
}

TEST_CASE("a digest tells token ids and logprob bits apart") {
  const auto digest = [](const std::vector<TokenLogprob>& tokens) {
    ReplayDigest result;
    for (const TokenLogprob& token : tokens) {
      result.Add(token.token_id, token.logprob);
    }
    return result.value();
  };
  const uint64_t reference = digest({{1, -0.5F}, {2, -1.5F}});
  REQUIRE(reference == digest({{1, -0.5F}, {2, -1.5F}}));
  REQUIRE(reference != digest({{2, -1.5F}, {1, -0.5F}}));
  REQUIRE(reference != digest({{1, -0.5F}}));
  REQUIRE(reference != digest({{1, -0.5F}, {3, -1.5F}}));
  REQUIRE(reference != digest({{1, -0.5F}, {2, std::nextafter(-1.5F, 0.0F)}}));
  REQUIRE(digest({}) != digest({{0, 0.0F}}));
  REQUIRE(digest({{0, 0.0F}}) != digest({{0, -0.0F}}));
}

}  // namespace
}  // namespace ringserve
