#include "engine/plan/speculation.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/support/catch.h"

namespace ringserve {
namespace {

std::vector<int32_t> Draft(const std::vector<int32_t>& text, int32_t min_match, int32_t max_draft) {
  std::vector<int32_t> draft = {77};  // what was there goes
  LookUpDraft(text, min_match, max_draft, draft);
  return draft;
}

// By the definition: every earlier place, every length.
std::vector<int32_t> ObviousDraft(const std::vector<int32_t>& text,
                                  int32_t min_match,
                                  int32_t max_draft) {
  const auto size = static_cast<int32_t>(text.size());
  for (int32_t length = std::min(kMaxMatch, size - 1); length >= min_match; --length) {
    for (int32_t end = size - 1; end >= length; --end) {
      if (std::equal(text.end() - length, text.end(), text.begin() + end - length)) {
        std::vector<int32_t> whole = text;
        for (int32_t i = 0; i < max_draft; ++i) {
          whole.push_back(whole[static_cast<size_t>(end) + static_cast<size_t>(i)]);
        }
        return {whole.begin() + size, whole.end()};
      }
    }
  }
  return {};
}

TEST_CASE("a draft is what followed when the text last read like this") {
  CHECK(Draft({}, 1, 4).empty());
  CHECK(Draft({5}, 1, 4).empty());
  CHECK(Draft({5, 6}, 1, 4).empty());
  CHECK(Draft({1, 2, 3, 9, 1, 2}, 2, 2) == std::vector<int32_t>{3, 9});
  CHECK(Draft({1, 2, 3, 9, 4, 2}, 2, 2).empty());
  CHECK(Draft({1, 2, 3, 9, 4, 2}, 1, 1) == std::vector<int32_t>{3});
  // The longest match wins, of equals the latest.
  CHECK(Draft({1, 2, 3, 8, 2, 4, 1, 2}, 1, 1) == std::vector<int32_t>{3});
  CHECK(Draft({1, 2, 3, 1, 2, 4, 1, 2}, 1, 1) == std::vector<int32_t>{4});
  // What repeats itself goes on doing so.
  CHECK(Draft({7, 1, 2, 3, 1, 2, 3}, 2, 8) == std::vector<int32_t>{1, 2, 3, 1, 2, 3, 1, 2});
  CHECK(Draft({4, 4}, 1, 3) == std::vector<int32_t>{4, 4, 4});
}

TEST_CASE("drafts of random texts are those of the definition") {
  std::mt19937_64 random(1);
  for (int round = 0; round < 20000; ++round) {
    std::vector<int32_t> text(random() % 40);
    const uint64_t num_letters = 1 + random() % 4;
    for (int32_t& token_id : text) {
      token_id = static_cast<int32_t>(random() % num_letters);
    }
    const auto min_match = static_cast<int32_t>(1 + random() % kMaxMatch);
    const auto max_draft = static_cast<int32_t>(1 + random() % 9);
    REQUIRE(Draft(text, min_match, max_draft) == ObviousDraft(text, min_match, max_draft));
  }
}

TEST_CASE("a recent text keeps the end of the text in bounded memory") {
  std::vector<int32_t> all;
  RecentText text;
  std::mt19937_64 random(2);
  while (all.size() < 5 * RecentText::kMinTokens) {
    std::vector<int32_t> more(random() % (RecentText::kMinTokens * 3 / 2));
    for (int32_t& token_id : more) {
      token_id = static_cast<int32_t>(random() % 1000);
    }
    if (more.size() % 2 == 0) {
      text.Add(more);
    } else {
      for (const int32_t token_id : more) {
        text.Add(token_id);
      }
    }
    all.insert(all.end(), more.begin(), more.end());
    const auto kept = text.token_ids();
    REQUIRE(kept.size() >= std::min(all.size(), RecentText::kMinTokens));
    REQUIRE(kept.size() <= 2 * RecentText::kMinTokens);
    REQUIRE(std::equal(kept.rbegin(), kept.rend(), all.rbegin()));
  }
}

// A step that costs `fixed` ms, and so much for each sequence and each draft.
struct Prices {
  double fixed = 0, sequence = 0, draft = 0;

  double Of(int64_t num_sequences, int64_t num_drafts) const {
    return fixed + sequence * static_cast<double>(num_sequences) +
           draft * static_cast<double>(num_drafts);
  }
};

TEST_CASE("the price of a drafted row is learned from steps with and without") {
  RowCost cost;
  CHECK(cost.Share(1) == 1);
  const Prices prices = {.fixed = 1, .sequence = 0.25, .draft = 0.2};
  cost.Learn(4, 3, prices.Of(4, 3));  // nothing to compare it with
  CHECK(cost.Share(4) == 1);
  for (int i = 0; i < 50; ++i) {
    cost.Learn(4, 0, prices.Of(4, 0));
  }
  CHECK(cost.Share(4) == RowCost::kUnknown);
  for (int64_t i = 0; i < 50; ++i) {
    cost.Learn(4, 1 + i % 8, prices.Of(4, 1 + i % 8));
  }
  // 2 ms for 4 sequences: 0.5 ms for each.
  CHECK(cost.Share(4) == Approx(0.4).epsilon(0.02));
  CHECK(cost.Share(4, 0.1) == Approx(0.6).epsilon(0.02));
  // Steps of other sizes tell what a sequence costs.
  for (int64_t i = 0; i < 200; ++i) {
    cost.Learn(1 + i % 8, 0, prices.Of(1 + i % 8, 0));
  }
  CHECK(cost.Share(1) == Approx(0.2 / 1.25).epsilon(0.02));
  CHECK(cost.Share(8) == Approx(0.2 / 0.375).epsilon(0.02));
  // One disturbed step changes little; steps without sequences or time nothing.
  cost.Learn(4, 0, 5000);
  cost.Learn(4, 2, 5000);
  cost.Learn(0, 0, 1);
  cost.Learn(4, 1, 0);
  CHECK(cost.Share(4) > 0.2);
  CHECK(cost.Share(4) < 0.8);
  // A machine that becomes slower, and rows that become all that a step costs.
  for (int64_t i = 0; i < 500; ++i) {
    cost.Learn(1 + i % 8, 0, 0.5 * static_cast<double>(1 + i % 8));
    cost.Learn(1 + i % 8, 2, 0.5 * static_cast<double>(3 + i % 8));
  }
  CHECK(cost.Share(1) == Approx(1.0).epsilon(0.05));
  CHECK(cost.Share(8) == Approx(1.0).epsilon(0.05));
}

// One disturbed step can make drafts look worthless, so that nobody drafts and nothing is learned.
TEST_CASE("the price of a drafted row is asked anew after a long time without") {
  RowCost cost;
  const Prices prices = {.fixed = 1, .sequence = 0.25, .draft = 0.1};
  cost.Learn(1, 0, prices.Of(1, 0));
  cost.Learn(1, 1, 100);
  for (int64_t i = 1; i < RowCost::kForget; ++i) {
    cost.Learn(1, 0, prices.Of(1, 0));
    REQUIRE(cost.Share(1) == 1);
  }
  cost.Learn(1, 0, prices.Of(1, 0));
  CHECK(cost.Share(1) == RowCost::kUnknown);
  cost.Learn(1, 1, prices.Of(1, 1));
  CHECK(cost.Share(1) == Approx(0.1 / 1.25).epsilon(0.02));
  for (int64_t i = 1; i < RowCost::kForget; ++i) {
    cost.Learn(1, 0, prices.Of(1, 0));
  }
  CHECK(cost.Share(1) == Approx(0.1 / 1.25).epsilon(0.02));
}

// Tokens made, and rows that were wasted on drafts, when each draft holds with `likelihood`.
struct Outcome {
  int64_t num_tokens = 0;
  int64_t num_steps = 0;
  int64_t num_rejected = 0;
};

Outcome Play(DraftLength& length, double row_share, double likelihood, int64_t num_tokens) {
  std::mt19937_64 random(3);
  std::bernoulli_distribution holds(likelihood);
  Outcome outcome;
  while (outcome.num_tokens < num_tokens) {
    const int32_t num_drafted = length.Get(row_share, 8);
    int32_t num_accepted = 0;
    while (num_accepted < num_drafted && holds(random)) {
      ++num_accepted;
    }
    length.Learn(num_drafted, num_accepted);
    outcome.num_tokens += num_accepted + 1;
    outcome.num_rejected += num_drafted - num_accepted;
    ++outcome.num_steps;
  }
  return outcome;
}

TEST_CASE("drafts grow while they hold and all but end where they do not") {
  DraftLength sure;
  CHECK(Play(sure, 0.2, 1.0, 4000).num_steps < 4000 / 8);
  CHECK(sure.Get(0.2, 8) == 8);
  CHECK(sure.Get(0.2, 3) == 3);
  CHECK(sure.Get(0.2, 0) == 0);
  DraftLength never;
  CHECK(Play(never, 0.2, 0.0, 10000).num_rejected <= 10000 / DraftLength::kMaxWait + 16);
  // A text that begins to repeat itself is noticed.
  CHECK(Play(never, 0.2, 1.0, 1000).num_steps < 400);
  // Where a row costs what a step does next to nothing is drafted, however sure.
  CHECK(Play(sure, 1.0, 1.0, 1000).num_steps >= 998);
}

TEST_CASE("what is drafted costs less than it brings, whatever a row costs") {
  for (const double row_share : {0.05, 0.2, 0.4, 0.6, 0.8, 1.0}) {
    for (const double likelihood : {0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0}) {
      DraftLength length;
      const Outcome outcome = Play(length, row_share, likelihood, 20000);
      const auto num_rows = static_cast<double>(outcome.num_tokens + outcome.num_rejected);
      // A step without drafts costs 1: its own row and what it costs anyway.
      const double price =
          static_cast<double>(outcome.num_steps) * (1 - row_share) + num_rows * row_share;
      CAPTURE(row_share, likelihood, price);
      CHECK(price <= 1.02 * static_cast<double>(outcome.num_tokens));
    }
  }
}

}  // namespace
}  // namespace ringserve
