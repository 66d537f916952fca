// Random operations on an engine, one thread, a clock that stands still: every request ends exactly
// once and is answered with what its own text demands; blocks never leak and never have two
// writers. A failure prints its seed; RINGSERVE_SIMULATION_SEED replays one, and
// RINGSERVE_SIMULATION_SEEDS sets how many are run.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/engine_loop.h"
#include "tests/support/catch.h"
#include "tests/support/fake_engine.h"

namespace ringserve {
namespace {

// A request that was submitted, and what has happened to it since.
struct Live {
  GenerateRequest request;  // without a StopCondition
  bool was_cancelled = false;
  bool was_paused = false;
};

// Copies what ExpectedAnswer needs; a request owns its StopCondition and cannot be copied whole.
GenerateRequest Copy(const GenerateRequest& from) {
  GenerateRequest to;
  to.request_id = from.request_id;
  to.prompt = from.prompt;
  to.sampling = from.sampling;
  to.stopping.max_tokens = from.stopping.max_tokens;
  to.stopping.min_tokens = from.stopping.min_tokens;
  to.stopping.ignore_eos = from.stopping.ignore_eos;
  to.stopping.stop_token_ids = from.stopping.stop_token_ids;
  to.output = from.output;
  to.priority = from.priority;
  to.deadline = from.deadline;
  to.queue_timeout = from.queue_timeout;
  return to;
}

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed), engine_(RandomOptions(random_)) {}

  void Run() {
    const int num_operations = 40 + static_cast<int>(random_() % 80);
    for (int i = 0; i < num_operations; ++i) {
      Operate();
      Check();
    }
    Finish();
  }

 private:
  static FakeEngineOptions RandomOptions(std::mt19937_64& random) {
    const auto between = [&](int64_t low, int64_t high) {
      return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
    };
    FakeEngineOptions options;
    const auto block_size = static_cast<int32_t>(1U << between(0, 3));
    const bool slides = random() % 2 == 0;
    options.shape = {
        .buffer_size = block_size * between(1, 5) + (random() % 3 == 0 ? between(0, 3) : 0),
        .block_size = block_size,
        .sink_size = slides ? static_cast<int32_t>(between(0, block_size)) : 0,
        .feedback_size = block_size * between(1, 6),
        .slides = slides};
    options.scheduler = {.prefill_size = static_cast<int32_t>(between(1, 24)),
                         .max_batch = static_cast<int32_t>(between(1, 6)),
                         .max_queue = static_cast<int32_t>(between(1, 6)),
                         .max_token_gap_ms = random() % 4 == 0 ? 1 : 0};
    const int64_t per_session = WorstCaseBlocks(options.shape, INT64_MAX);
    options.device_blocks =
        static_cast<int32_t>(per_session * between(1, 4) + between(0, per_session));
    options.max_logits_rows = static_cast<int32_t>(between(1, 8));
    options.runs_ahead = random() % 2 == 0;
    return options;
  }

  bool OneIn(uint64_t n) { return random_() % n == 0; }

  int32_t RandomToken() {
    return static_cast<int32_t>(random_() % static_cast<uint64_t>(engine_.config().vocab_size));
  }

  GenerateRequest RandomRequest() {
    const SessionShape& shape = engine_.options().shape;
    GenerateRequest request;
    request.request_id = ++last_id_;
    const auto max_prompt = static_cast<uint64_t>(shape.buffer_size * (shape.slides ? 3 : 1));
    request.prompt.resize(1 + random_() % max_prompt);
    for (int32_t& token_id : request.prompt) {
      token_id = RandomToken();
    }
    request.sampling.temperature = OneIn(3) ? 0.0F : 1.0F;
    request.sampling.seed = random_();
    if (OneIn(3)) {
      request.sampling.repetition_penalty = 1.3F;
      request.sampling.frequency_penalty = 0.2F;
      request.sampling.top_p = 0.8F;
    }
    request.stopping.max_tokens = 1 + static_cast<int32_t>(random_() % 40);
    request.stopping.ignore_eos = OneIn(2);
    if (OneIn(3)) {
      request.stopping.stop_token_ids = {RandomToken(), RandomToken()};
      request.stopping.min_tokens =
          static_cast<int32_t>(random_() % (request.stopping.max_tokens + 1));
    }
    request.output.prompt_logprobs = OneIn(4);
    request.output.num_logprobs = static_cast<int32_t>(random_() % 4) - 1;
    request.priority = static_cast<int32_t>(random_() % 3) - 1;
    if (OneIn(4)) {
      request.deadline = engine_.now() + absl::Seconds(1 + random_() % 10);
    }
    if (OneIn(4)) {
      request.queue_timeout = absl::Seconds(1 + random_() % 4);
    }
    return request;
  }

  void Operate() {
    const uint64_t kind = random_() % 20;
    if (kind < 5) {
      Submit();
    } else if (kind < 14) {
      for (uint64_t steps = 1 + random_() % 6; steps > 0; --steps) {
        engine_.loop().Step();
        Check();
      }
    } else if (kind < 16) {
      if (Live* live = Pick(); live != nullptr) {
        live->was_cancelled = true;
        engine_.loop().queue().Command({.request_id = live->request.request_id});
      }
    } else if (kind < 18) {
      if (Live* live = Pick(); live != nullptr) {
        live->was_paused = !live->was_paused;
        engine_.loop().queue().Command({.request_id = live->request.request_id,
                                        .kind = live->was_paused ? RequestCommand::Kind::kPause
                                                                 : RequestCommand::Kind::kResume});
      }
    } else if (kind == 18) {
      engine_.Sleep(absl::Seconds(random_() % 3));
    } else if (OneIn(12)) {
      engine_.backend().FailAfter(static_cast<int64_t>(random_() % 80));
      may_fault_ = true;
    } else if (OneIn(4)) {
      engine_.backend().PoisonLogitsRow(static_cast<int32_t>(random_() % 3));
      may_poison_ = true;
    }
  }

  void Submit() {
    GenerateRequest request = RandomRequest();
    const auto max_prompt = engine_.options().shape.slides ? std::numeric_limits<int64_t>::max()
                                                           : engine_.options().shape.buffer_size;
    REQUIRE(CheckGenerateRequest(request,
                                 {.vocab_size = engine_.config().vocab_size,
                                  .max_prompt_tokens = max_prompt,
                                  .max_context_tokens = max_prompt})
                .ok());
    Live live{.request = Copy(request)};
    const absl::Status status = engine_.loop().Submit(std::move(request));
    if (status.ok()) {
      live_.emplace(live.request.request_id, std::move(live));
    } else {
      REQUIRE((absl::IsResourceExhausted(status) || (may_fault_ && absl::IsUnavailable(status))));
    }
  }

  Live* Pick() {
    if (live_.empty()) {
      return nullptr;
    }
    auto at = live_.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_() % live_.size()));
    return &at->second;
  }

  void Check() {
    const BlockPool& pool = engine_.loop().pool();
    REQUIRE(engine_.loop().PoolBalances());
    // Nothing is shared here, so a block with two owners would have two writers.
    REQUIRE(pool.num_references() == pool.num_blocks() - pool.num_free());
    for (const uint64_t id : engine_.sink().TakeEnded()) {
      const auto found = live_.find(id);
      REQUIRE(found != live_.end());
      CheckEnd(found->second, engine_.sink().Take(id));
      live_.erase(found);
    }
    const EngineLoad load = engine_.loop().load();
    REQUIRE(load.queued <=
            engine_.options().scheduler.max_queue + engine_.options().scheduler.max_batch);
  }

  // Nobody is paused and the clock goes on: all must end, in a number of steps that work explains.
  void Finish() {
    for (auto& [id, live] : live_) {
      engine_.loop().queue().Command({.request_id = id, .kind = RequestCommand::Kind::kResume});
    }
    for (int64_t steps = 0; engine_.loop().Step(); ++steps) {
      REQUIRE(steps < 20000);
      Check();
    }
    Check();
    REQUIRE(live_.empty());
    REQUIRE(engine_.loop().pool().num_references() == 0);
    engine_.loop().queue().AwaitIdle();
  }

  void CheckEnd(const Live& live, const Transcript& got) {
    const GenerateRequest& request = live.request;
    CAPTURE(request.request_id);
    const Expected expected = ExpectedAnswer(request, engine_.config(), engine_.options().shape);
    REQUIRE(got.tokens.size() <= expected.tokens.size());
    REQUIRE(got.prompt.size() <= expected.prompt.size());
    REQUIRE(got.notices.size() <= expected.notices.size());
    for (size_t i = 0; i < got.tokens.size(); ++i) {
      CheckToken(got.tokens[i], expected.tokens[i]);
    }
    for (size_t i = 0; i < got.prompt.size(); ++i) {
      CheckToken(got.prompt[i], expected.prompt[i]);
    }
    for (size_t i = 0; i < got.notices.size(); ++i) {
      REQUIRE(got.notices[i].first_position == expected.notices[i].first_position);
      REQUIRE(got.notices[i].evicted_tokens == expected.notices[i].evicted_tokens);
    }
    if (got.finished.has_value()) {
      REQUIRE(got.tokens.size() == expected.tokens.size());
      REQUIRE(got.prompt.size() == expected.prompt.size());
      REQUIRE(got.notices.size() == expected.notices.size());
      REQUIRE(got.finished->reason == expected.reason);
      REQUIRE(got.finished->replay_digest == expected.digest);
      return;
    }
    const absl::Status& status = got.failed->status;
    CAPTURE(status.ToString());
    const bool is_late =
        engine_.now() >= request.deadline ||
        (!got.accepted.has_value() && request.queue_timeout < absl::InfiniteDuration());
    REQUIRE(((absl::IsCancelled(status) && live.was_cancelled) ||
             (absl::IsDeadlineExceeded(status) && is_late) ||
             (absl::IsInternal(status) && (may_fault_ || may_poison_)) ||
             (absl::IsUnavailable(status) && may_fault_)));
  }

  static void CheckToken(const ScoredToken& got, const ScoredToken& expected) {
    REQUIRE(got.token.token_id == expected.token.token_id);
    REQUIRE(got.token.logprob == expected.token.logprob);
    REQUIRE(got.alternatives.size() == expected.alternatives.size());
  }

  std::mt19937_64 random_;
  FakeEngine engine_;
  std::map<uint64_t, Live> live_;
  uint64_t last_id_ = 0;
  bool may_fault_ = false;
  bool may_poison_ = false;
};

std::optional<uint64_t> Variable(const char* name) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): before any thread
  return text == nullptr ? std::nullopt : std::optional<uint64_t>(std::stoull(text));
}

TEST_CASE("random operations leave every answer as its text demands") {
  const std::optional<uint64_t> one = Variable("RINGSERVE_SIMULATION_SEED");
  const uint64_t first = one.value_or(0);
  const uint64_t count =
      one.has_value() ? 1 : Variable("RINGSERVE_SIMULATION_SEEDS").value_or(1500);
  for (uint64_t seed = first; seed < first + count; ++seed) {
    CAPTURE(seed);
    Simulation(seed).Run();
  }
}

}  // namespace
}  // namespace ringserve
