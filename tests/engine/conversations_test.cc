// Long conversations of the embedded model whose sessions do not all fit on the device: nothing is
// computed twice, and no turn tells where its session lay meanwhile.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/engine_run.h"

namespace ringserve {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(NDEBUG)
constexpr size_t kNumConversations = 16;  // these builds are many times slower
#else
constexpr size_t kNumConversations = 64;
#endif
constexpr size_t kShareOnDevice = 8;  // one session in so many has room there, at its largest
constexpr size_t kNumTurns = 43;
constexpr size_t kLongestPrompt = 160;
constexpr int32_t kMaxTokens = 6;

EngineConfig Config(DevicePolicy device) {
  EngineConfig config = FairytaleConfig();
  config.device = device;
  config.rings = {.buffer_size = 768, .block_size = 16};
  config.attention.tile_size = 16;
  config.scheduler = {.prefill_size = 512, .max_batch = 64, .max_queue = 1000};
  return config;
}

// What is said to one conversation, the same in every run: pieces of a document whose lengths are
// drawn from a Pareto distribution (exponent 1.1): half of them have one token or two, one in a
// hundred more than 60.
std::vector<std::vector<int32_t>> Prompts(size_t conversation,
                                          const std::vector<int32_t>& document) {
  std::mt19937_64 random(4300 + conversation);
  std::vector<std::vector<int32_t>> prompts;
  size_t left = 600;
  for (size_t turn = 0; turn < kNumTurns; ++turn) {
    const double share = std::uniform_real_distribution<double>(1e-6, 1)(random);
    // So that every later turn has its token.
    const size_t most = std::min(kLongestPrompt, left - (kNumTurns - 1 - turn));
    const auto length =
        static_cast<size_t>(std::clamp(std::pow(share, -1 / 1.1), 1.0, static_cast<double>(most)));
    left -= length;
    const auto first = static_cast<std::ptrdiff_t>(random() % (document.size() - length));
    prompts.emplace_back(document.begin() + first,
                         document.begin() + first + static_cast<std::ptrdiff_t>(length));
  }
  return prompts;
}

GenerateRequest Turn(size_t conversation, size_t turn, std::vector<int32_t> prompt) {
  GenerateRequest request;
  request.request_id = 1 + conversation * kNumTurns + turn;
  request.prompt = std::move(prompt);
  request.sampling.seed = request.request_id;
  request.sampling.temperature = conversation % 2 == 0 ? 0 : 0.9F;
  request.stopping.max_tokens = 1 + static_cast<int32_t>((conversation + turn) % kMaxTokens);
  request.stopping.ignore_eos = true;
  return request;
}

std::string CreateSession(Engine& engine) {
  std::promise<std::string> id;
  engine.CreateSession("", {}, [&](const absl::StatusOr<SessionInfo>& info) {
    id.set_value(info.ok() ? info->id : info.status().ToString());
  });
  return id.get_future().get();
}

// A turn, and the whole text that it continues.
struct Said {
  std::vector<int32_t> text;
  std::vector<int32_t> answer;
  uint64_t digest = 0;
};

// All conversations side by side, turn by turn; [conversation][turn].
std::vector<std::vector<Said>> Converse(Engine& engine,
                                        FakeSink& sink,
                                        const std::vector<int32_t>& document) {
  std::vector<std::string> ids;
  std::vector<std::vector<std::vector<int32_t>>> prompts;
  for (size_t i = 0; i < kNumConversations; ++i) {
    ids.push_back(CreateSession(engine));
    prompts.push_back(Prompts(i, document));
  }
  std::vector<std::vector<Said>> all(kNumConversations);
  for (size_t turn = 0; turn < kNumTurns; ++turn) {
    for (size_t i = 0; i < kNumConversations; ++i) {
      GenerateRequest request = Turn(i, turn, prompts[i][turn]);
      request.turn.emplace().session_id = ids[i];
      REQUIRE(engine.Submit(std::move(request)).ok());
    }
    for (size_t i = 0; i < kNumConversations; ++i) {
      CAPTURE(turn, i);
      const uint64_t request_id = Turn(i, turn, {}).request_id;
      sink.AwaitEnd(request_id);
      const Transcript got = sink.Take(request_id);
      REQUIRE(got.finished.has_value());
      Said said;
      if (turn > 0) {
        const Said& before = all[i].back();
        said.text = before.text;
        said.text.insert(said.text.end(), before.answer.begin(), before.answer.end());
      }
      // The last token of an answer is read with the next prompt.
      REQUIRE(got.finished->usage.cached_tokens ==
              std::max<int64_t>(static_cast<int64_t>(said.text.size()) - 1, 0));
      REQUIRE(got.finished->usage.reprefilled_tokens == 0);
      said.text.insert(said.text.end(), prompts[i][turn].begin(), prompts[i][turn].end());
      said.answer = got.token_ids();
      said.digest = got.finished->replay_digest;
      all[i].push_back(std::move(said));
    }
  }
  return all;
}

// Every turn again, as a request of its own that knows no session.
void CheckStateless(const EngineConfig& config, const std::vector<std::vector<Said>>& all) {
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  for (size_t i = 0; i < all.size(); ++i) {
    for (size_t turn = 0; turn < kNumTurns; ++turn) {
      REQUIRE(engine->Submit(Turn(i, turn, all[i][turn].text)).ok());
    }
    for (size_t turn = 0; turn < kNumTurns; ++turn) {
      CAPTURE(i, turn);
      const uint64_t request_id = Turn(i, turn, {}).request_id;
      sink.AwaitEnd(request_id);
      const Transcript got = sink.Take(request_id);
      REQUIRE(got.finished.has_value());
      REQUIRE(got.finished->usage.cached_tokens == 0);
      REQUIRE(got.token_ids() == all[i][turn].answer);
      REQUIRE(got.finished->replay_digest == all[i][turn].digest);
    }
  }
}

TEST_CASE("conversations of forty-three turns, an eighth of which fit on the device") {
  EngineConfig config = Config(GENERATE(from_range(TestDevices())));
  const std::vector<int32_t> document = FairytaleReference()[4]["document_token_ids"];
  FakeSink sink;
  std::vector<std::vector<Said>> roomy;
  {
    const std::unique_ptr<Engine> engine = StartEngine(config, sink);
    roomy = Converse(*engine, sink, document);
    REQUIRE(engine->load().spilled_blocks == 0);
  }
  CheckStateless(config, roomy);
  const int64_t session_blocks = config.rings.buffer_size / config.rings.block_size;
  constexpr int64_t kBlockBytes = int64_t{16} * 6 * 2 * 64 * 2 * 2;
  const int64_t on_device =
      static_cast<int64_t>(kNumConversations / kShareOnDevice) * session_blocks;
  config.memory = {
      .device_bytes = on_device * kBlockBytes,
      .pinned_bytes = static_cast<int64_t>(kNumConversations) * session_blocks * kBlockBytes};
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  REQUIRE(engine->load().device_blocks == on_device);
  const std::vector<std::vector<Said>> moved = Converse(*engine, sink, document);
  for (size_t i = 0; i < kNumConversations; ++i) {
    for (size_t turn = 0; turn < kNumTurns; ++turn) {
      CAPTURE(i, turn);
      REQUIRE(moved[i][turn].answer == roomy[i][turn].answer);
      REQUIRE(moved[i][turn].digest == roomy[i][turn].digest);
    }
  }
  const EngineLoad load = engine->load();
  REQUIRE(load.reprefilled_tokens == 0);
  REQUIRE(load.spilled_blocks > 1000);
  REQUIRE(load.restored_blocks > 1000);
}

}  // namespace
}  // namespace ringserve
