// Prefix sharing: the cache against the obvious model (a block is what it was filled with), and
// answers that are the same bits with and without.
#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "engine/cache/prefix_cache.h"
#include "tests/support/session_run.h"

namespace ringserve {
namespace {

using Text = std::vector<int32_t>;

constexpr int32_t kBlockSize = 2;

// Texts of few letters, so that beginnings meet often.
Text RandomText(std::mt19937_64& random, size_t max_blocks) {
  Text text(kBlockSize * (1 + random() % max_blocks) + random() % kBlockSize);
  for (int32_t& token_id : text) {
    token_id = static_cast<int32_t>(random() % 2);
  }
  return text;
}

struct Filled {
  std::string scope;
  Text text;  // from the first token to the block's last
};

TEST_CASE("a block that is found holds exactly the text it is found for") {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    BlockPool pool(12);
    PrefixCache cache(kBlockSize, pool);
    std::map<int32_t, Filled> contents;
    std::vector<std::vector<int32_t>> live;  // blocks of texts that somebody uses
    size_t num_hits = 0;
    for (int i = 0; i < 200; ++i) {
      if (live.size() > 2 || (!live.empty() && random() % 3 == 0)) {
        std::swap(live[random() % live.size()], live.back());
        // A window that moves drops the first blocks, an end drops all.
        const size_t num_dropped = random() % 4 == 0 ? 1 : live.back().size();
        for (size_t k = 0; k < num_dropped; ++k) {
          pool.Release(live.back()[k]);
        }
        live.back().erase(live.back().begin(),
                          live.back().begin() + static_cast<std::ptrdiff_t>(num_dropped));
        if (live.back().empty()) {
          live.pop_back();
        }
      } else {
        const std::string scope = random() % 4 == 0 ? "a" : "b";
        const Text text = RandomText(random, 3);
        std::vector<int32_t> blocks;
        cache.Find(scope, text, blocks);
        num_hits += blocks.size();
        for (size_t k = 0; k < blocks.size(); ++k) {
          const Filled& filled = contents.at(blocks[k]);
          REQUIRE(filled.scope == scope);
          REQUIRE(
              filled.text ==
              Text(text.begin(), text.begin() + static_cast<std::ptrdiff_t>((k + 1) * kBlockSize)));
        }
        while (blocks.size() < text.size() / kBlockSize) {
          const std::optional<int32_t> block = pool.Acquire();
          REQUIRE(block.has_value());
          REQUIRE(!pool.is_cached(*block));
          blocks.push_back(*block);
          contents[*block] = {
              scope,
              Text(text.begin(),
                   text.begin() + static_cast<std::ptrdiff_t>(blocks.size() * kBlockSize))};
        }
        cache.Insert(scope, text, blocks);
        live.push_back(blocks);
      }
      std::vector<int32_t> references;
      for (const std::vector<int32_t>& blocks : live) {
        references.insert(references.end(), blocks.begin(), blocks.end());
      }
      REQUIRE(pool.Balances(references));
      REQUIRE(cache.num_blocks() <= pool.num_blocks());
    }
    REQUIRE(num_hits > 10);
  }
}

TEST_CASE("the least recently used block goes first, and what is in use stays") {
  BlockPool pool(4);
  PrefixCache cache(1, pool);
  const auto take = [&] {
    const int32_t block = *pool.Acquire();
    return block;
  };
  const std::vector<int32_t> one = {take(), take()};
  cache.Insert("", Text{1, 2}, one);
  const std::vector<int32_t> two = {take()};
  cache.Insert("", Text{3}, two);
  pool.Release(one[0]);
  pool.Release(one[1]);
  pool.Release(two[0]);
  REQUIRE(pool.num_reclaimable() == 3);
  REQUIRE(pool.num_free() == 1);
  std::vector<int32_t> found;
  cache.Find("", Text{1, 2}, found);
  REQUIRE(found == one);
  pool.Release(one[0]);
  pool.Release(one[1]);
  take();
  REQUIRE(take() == two[0]);  // used before the other
  REQUIRE(take() == one[1]);  // the end of a text goes before its beginning
  found.clear();
  cache.Find("", Text{1, 2}, found);
  REQUIRE(found == std::vector<int32_t>{one[0]});
  REQUIRE(!pool.Acquire().has_value());
  REQUIRE(cache.num_evicted() == 2);
}

FakeEngineOptions Sharing() {
  FakeEngineOptions options;
  options.shape = {.buffer_size = 64, .block_size = 8, .feedback_size = 64};
  options.scheduler.prefill_size = 7;
  options.sessions.share_prefixes = true;
  options.sessions.prefix_groups = {{"x", "y"}, {"ann", "bob"}};
  return options;
}

// Runs one request alone and holds its answer to the text's; how much of it was cached.
int64_t CachedTokens(FakeEngine& engine, uint64_t id, const Text& prompt, std::string owner) {
  GenerateRequest request = TurnRequest(id, "", prompt, 6);
  request.owner = std::move(owner);
  Text nothing;
  return CheckTurn(engine, std::move(request), engine.options().shape, nothing)
      .finished->usage.cached_tokens;
}

TEST_CASE("equal beginnings are computed once within a scope, and only there") {
  FakeEngine engine(Sharing());
  const Text prompt = SeededTokens(1, 33);
  Text longer = prompt;
  longer.push_back(9);
  REQUIRE(CachedTokens(engine, 1, prompt, "ann") == 0);
  REQUIRE(CachedTokens(engine, 2, prompt, "ann") == 32);
  REQUIRE(CachedTokens(engine, 3, longer, "bob") == 32);  // her group
  REQUIRE(CachedTokens(engine, 4, prompt, "eve") == 0);
  REQUIRE(CachedTokens(engine, 5, prompt, "x") == 0);
  REQUIRE(CachedTokens(engine, 6, prompt, "") == 0);
  REQUIRE(CachedTokens(engine, 7, prompt, "eve") == 32);
  // The last token is read even if all of the prompt is known.
  REQUIRE(CachedTokens(engine, 8, Text(prompt.begin(), prompt.begin() + 32), "ann") == 24);
  REQUIRE(CachedTokens(engine, 9, Text(prompt.begin(), prompt.begin() + 20), "ann") == 16);
  Text other = prompt;
  other[17] = other[17] % 31 + 1;
  REQUIRE(CachedTokens(engine, 10, other, "ann") == 16);
  REQUIRE(engine.loop().load().cached_tokens == 32 + 32 + 32 + 24 + 16 + 16);
  REQUIRE(engine.loop().pool().num_references() == 0);
  REQUIRE(engine.loop().load().device_blocks_free == engine.options().device_blocks);
  // Who wants to know what was thought of the prompt has it computed.
  GenerateRequest scored = TurnRequest(11, "", prompt, 3);
  scored.owner = "ann";
  scored.output.prompt_logprobs = true;
  Text nothing;
  REQUIRE(CheckTurn(engine, std::move(scored), engine.options().shape, nothing)
              .finished->usage.cached_tokens == 0);
}

TEST_CASE("what was answered is a beginning too, and of a session what it committed") {
  FakeEngine engine(Sharing());
  const std::string id = engine.Create()->id;
  Text text;
  CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 10), 10), engine.options().shape, text);
  REQUIRE(engine.loop().Submit(TurnRequest(2, id, SeededTokens(2, 13), 20)).ok());
  for (int i = 0; i < 8; ++i) {
    engine.loop().Step();
  }
  engine.loop().queue().Command({.request_id = 2});
  engine.loop().Step();
  const Text before = text;
  text.push_back(5);
  REQUIRE(CachedTokens(engine, 3, text, "") == 16);  // of 19 that are in the rings
  CheckTurn(
      engine, TurnRequest(4, id, SeededTokens(4, 3), 10), engine.options().shape, text = before);
  text.push_back(5);
  REQUIRE(CachedTokens(engine, 5, text, "") == 32);
  // A new session begins with what is known, and can be rolled back into it.
  const std::string other = engine.Create()->id;
  Text other_text;
  const Transcript got =
      CheckTurn(engine, TurnRequest(6, other, text, 3), engine.options().shape, other_text);
  REQUIRE(got.accepted->cached_tokens == 32);
  for (const int64_t position : {30, 16, 3, 0}) {
    REQUIRE(engine.Rollback(other, position).ok());
    other_text.resize(static_cast<size_t>(position));
    CheckTurn(engine,
              TurnRequest(100 + static_cast<uint64_t>(position), other, SeededTokens(6, 4), 5),
              engine.options().shape,
              other_text);
    REQUIRE(engine.Rollback(other, position).ok());
    other_text.resize(static_cast<size_t>(position));
  }
  REQUIRE(CachedTokens(engine, 7, text, "") == 32);
}

TEST_CASE("sharing can be switched off") {
  FakeEngineOptions options = Sharing();
  options.sessions.share_prefixes = false;
  FakeEngine engine(options);
  const Text prompt = SeededTokens(1, 33);
  REQUIRE(CachedTokens(engine, 1, prompt, "ann") == 0);
  REQUIRE(CachedTokens(engine, 2, prompt, "ann") == 0);
  REQUIRE(engine.loop().load().prefix_blocks == 0);
}

TEST_CASE("a small pool shares what it can and refuses nobody for what is only cached") {
  for (const bool slides : {false, true}) {
    FakeEngineOptions options = Sharing();
    options.shape.slides = slides;
    options.device_blocks = 17;
    FakeEngine engine(options);
    std::mt19937_64 random(7);
    std::map<uint64_t, GenerateRequest> requests;
    uint64_t id = 0;
    for (int round = 0; round < 40; ++round) {
      for (int i = 0; i < 4; ++i) {
        ++id;
        Text prompt = SeededTokens(1 + random() % 3, 8 * (random() % 8));
        const Text end = SeededTokens(id, 1 + random() % 8);
        prompt.insert(prompt.end(), end.begin(), end.end());
        if (prompt.size() > 64) {
          prompt.resize(64);
        }
        const auto max_tokens = static_cast<int32_t>(1 + random() % 30);
        requests.emplace(id, TurnRequest(id, "", prompt, max_tokens));
        REQUIRE(engine.loop().Submit(TurnRequest(id, "", prompt, max_tokens)).ok());
      }
      RunUntilIdle(engine);
    }
    for (const auto& [request_id, request] : requests) {
      CAPTURE(request_id, slides);
      const Transcript got = engine.sink().transcript(request_id);
      REQUIRE(got.finished.has_value());
      CheckSame(got.tokens, ExpectedAnswer(request, engine.config(), options.shape).tokens);
    }
    REQUIRE(engine.loop().load().cached_tokens > 500);
    REQUIRE(engine.loop().pool().num_references() == 0);
  }
}

}  // namespace
}  // namespace ringserve
