// A request's answer depends on its own tokens, seed and parameters alone: the same token ids and
// the same replay digest, bit for bit, alone or in company, however the prompts are cut.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/constraint/constraint.h"
#include "engine/constraint/vocabulary.h"
#include "engine/text/tokenizer.h"
#include "tests/support/devices.h"
#include "tests/support/engine_run.h"

namespace ringserve {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(NDEBUG)
constexpr int kNumRequests = 10;  // these builds are many times slower
#else
constexpr int kNumRequests = 200;
#endif

struct Shape {
  size_t max_prompt = 0;
  int32_t max_tokens = 0;
};

std::vector<int32_t> DocumentIds() {
  return FairytaleReference()[4]["document_token_ids"];
}

GenerateRequest SeededRequest(uint64_t id, const std::vector<int32_t>& document, Shape shape) {
  std::mt19937_64 random(id);
  GenerateRequest request;
  request.request_id = id;
  const size_t length = 1 + random() % shape.max_prompt;
  const size_t first = random() % (document.size() - length);
  request.prompt.assign(document.begin() + static_cast<std::ptrdiff_t>(first),
                        document.begin() + static_cast<std::ptrdiff_t>(first + length));
  request.sampling.seed = random();
  switch (id % 5) {
    case 0:
      request.sampling.temperature = 0;
      break;
    case 1:
      request.sampling.top_k = 40;
      request.sampling.temperature = 0.8F;
      break;
    case 2:
      request.sampling.top_p = 0.9F;
      break;
    case 3:
      request.sampling.repetition_penalty = 1.2F;
      request.sampling.min_p = 0.02F;
      break;
    default:
      break;
  }
  request.stopping.max_tokens = 1 + static_cast<int32_t>(random() % shape.max_tokens);
  return request;
}

struct Answer {
  std::vector<int32_t> token_ids;
  uint64_t digest = 0;
  bool operator==(const Answer&) const = default;
};

// All requests at once, in an order of the run's own.
std::vector<Answer> Answers(const EngineConfig& config,
                            const std::vector<int32_t>& document,
                            Shape shape,
                            uint64_t order_seed,
                            int64_t* num_moved = nullptr) {
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  std::vector<uint64_t> order;
  for (uint64_t id = 0; id < kNumRequests; ++id) {
    order.push_back(id);
  }
  std::mt19937_64 random(order_seed);
  std::shuffle(order.begin(), order.end(), random);
  for (const uint64_t id : order) {
    REQUIRE(engine->Submit(SeededRequest(id, document, shape)).ok());
  }
  std::vector<Answer> answers;
  for (uint64_t id = 0; id < kNumRequests; ++id) {
    sink.AwaitEnd(id);
    const Transcript got = sink.transcript(id);
    REQUIRE(got.finished.has_value());
    answers.push_back({got.token_ids(), got.finished->replay_digest});
  }
  if (num_moved != nullptr) {
    *num_moved = std::min(engine->load().spilled_blocks, engine->load().restored_blocks);
  }
  return answers;
}

struct Company {
  int32_t max_batch = 0;
  int32_t prefill_size = 0;
  int32_t num_threads = 0;
};

void CheckCompanies(EngineConfig config,
                    Shape shape,
                    const std::vector<Company>& companies,
                    const std::vector<int32_t>& document = DocumentIds()) {
  config.scheduler.max_batch = 1;
  config.scheduler.prefill_size = 512;
  config.num_threads = 1;
  const std::vector<Answer> alone = Answers(config, document, shape, 1);
  for (const Company& company : companies) {
    config.scheduler.max_batch = company.max_batch;
    config.scheduler.prefill_size = company.prefill_size;
    config.num_threads = company.num_threads;
    CAPTURE(company.max_batch, company.prefill_size, company.num_threads);
    const std::vector<Answer> together =
        Answers(config, document, shape, static_cast<uint64_t>(company.max_batch));
    for (size_t id = 0; id < alone.size(); ++id) {
      CAPTURE(id);
      REQUIRE(together[id].token_ids == alone[id].token_ids);
      REQUIRE(together[id].digest == alone[id].digest);
    }
  }
}

TEST_CASE("answers do not depend on batch, chunks, company or threads") {
  EngineConfig config = FairytaleConfig();
  config.device = GENERATE(from_range(TestDevices()));
  CheckCompanies(config,
                 {.max_prompt = 40, .max_tokens = 16},
                 {{64, 1, 2}, {2, 7, 1}, {7, 64, 2}, {16, 512, 1}, {32, 64, 3}, {200, 512, 2}});
}

TEST_CASE("nor do those of contexts that slide") {
  EngineConfig config = FairytaleConfig();
  config.device = GENERATE(from_range(TestDevices()));
  config.rings = {
      .buffer_size = 64, .block_size = 16, .sink_size = 4, .overflow = OverflowPolicy::kSlide};
  config.attention.tile_size = 16;
  CheckCompanies(
      config, {.max_prompt = 120, .max_tokens = 24}, {{5, 7, 1}, {32, 64, 2}, {64, 512, 2}});
}

// A model of local and global layers, whose window is 32 tokens.
EngineConfig GemmaConfig() {
  EngineConfig config = FairytaleConfig();
  config.model = {.name = "gemma",
                  .path = std::string(RINGSERVE_SOURCE_DIR) + "/tests/fixtures/zoo/gemma3-text"};
  config.rings = {.buffer_size = 512, .block_size = 16};
  config.attention.tile_size = 16;
  return config;
}

std::vector<int32_t> GemmaIds() {
  std::vector<int32_t> ids = DocumentIds();
  for (int32_t& id : ids) {
    id = 3 + id % 509;
  }
  return ids;
}

TEST_CASE("nor do those of models with local and global layers") {
  EngineConfig config = GemmaConfig();
  config.device = GENERATE(from_range(TestDevices()));
  CheckCompanies(config,
                 {.max_prompt = 200, .max_tokens = 60},
                 {{64, 1, 2}, {2, 7, 1}, {7, 64, 2}, {16, 512, 1}},
                 GemmaIds());
}

TEST_CASE("nor does it show that blocks of both sizes went to pinned memory and came back") {
  EngineConfig config = GemmaConfig();
  config.device = GENERATE(from_range(TestDevices()));
  config.rings.buffer_size = 256;
  config.scheduler.prefill_size = 64;
  const std::vector<int32_t> document = GemmaIds();
  const Shape shape = {.max_prompt = 160, .max_tokens = 80};
  config.scheduler.max_batch = 1;
  const std::vector<Answer> alone = Answers(config, document, shape, 1);
  const absl::StatusOr<MemoryPlan> plan = Engine::Plan(config);
  REQUIRE(plan.ok());
  config.scheduler.max_batch = 16;
  config.memory = {.device_bytes = plan->session_bytes() * 3 / 2,
                   .pinned_bytes = plan->session_bytes() * 12};
  int64_t num_moved = 0;
  const std::vector<Answer> moved = Answers(config, document, shape, 2, &num_moved);
  CHECK(num_moved > 0);
  CHECK(moved == alone);
}

TEST_CASE("nor does it show that blocks went to pinned memory and came back") {
  EngineConfig config = FairytaleConfig();
  config.device = GENERATE(from_range(TestDevices()));
  config.rings = {.buffer_size = 128, .block_size = 16};
  config.attention.tile_size = 16;
  config.scheduler.prefill_size = 64;
  const std::vector<int32_t> document = DocumentIds();
  const Shape shape = {.max_prompt = 80, .max_tokens = 48};
  config.scheduler.max_batch = 1;
  const std::vector<Answer> alone = Answers(config, document, shape, 1);
  // Room for a few of the sequences that run at once.
  constexpr int64_t kBlockBytes = int64_t{16} * 6 * 2 * 64 * 2 * 2;
  config.scheduler.max_batch = 16;
  config.memory = {.device_bytes = 20 * kBlockBytes, .pinned_bytes = 200 * kBlockBytes};
  int64_t num_moved = 0;
  const std::vector<Answer> moved = Answers(config, document, shape, 2, &num_moved);
  CHECK(num_moved > 0);
  CHECK(moved == alone);
}

// Prompts that repeat themselves, so that drafts are made, and hold, and do not hold.
std::vector<Answer> LongAnswers(const EngineConfig& config,
                                const std::vector<int32_t>& document,
                                EngineLoad& load,
                                const Constraint* constraint = nullptr) {
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  constexpr uint64_t kCount = kNumRequests / 5;
  for (uint64_t id = 0; id < kCount; ++id) {
    GenerateRequest request = SeededRequest(id, document, {.max_prompt = 30, .max_tokens = 1});
    const std::vector<int32_t> once = request.prompt;
    for (uint64_t copies = id % 3; copies > 0; --copies) {
      request.prompt.insert(request.prompt.end(), once.begin(), once.end());
    }
    request.stopping.max_tokens = 60 + static_cast<int32_t>(id % 7) * 10;
    request.stopping.ignore_eos = id % 2 == 0;
    request.stopping.min_tokens = id % 4 == 1 ? 20 : 0;
    request.output.num_logprobs = id % 6 == 2 ? 3 : -1;
    request.sampling.frequency_penalty = id % 8 == 3 ? 0.1F : 0;
    if (constraint != nullptr) {
      request.constraint = constraint->Begin();
      request.stopping.ignore_eos = false;
      request.stopping.min_tokens = 0;
    }
    REQUIRE(engine->Submit(std::move(request)).ok());
  }
  std::vector<Answer> answers;
  for (uint64_t id = 0; id < kCount; ++id) {
    sink.AwaitEnd(id);
    const Transcript got = sink.transcript(id);
    REQUIRE(got.finished.has_value());
    answers.push_back({got.token_ids(), got.finished->replay_digest});
  }
  load = engine->load();
  return answers;
}

TEST_CASE("nor do answers depend on what was guessed ahead") {
  const bool is_local = GENERATE(false, true);
  EngineConfig config = is_local ? GemmaConfig() : FairytaleConfig();
  config.device = GENERATE(from_range(TestDevices()));
  const bool slides = !is_local && GENERATE(false, true);
  if (slides) {
    config.rings = {
        .buffer_size = 64, .block_size = 16, .sink_size = 4, .overflow = OverflowPolicy::kSlide};
    config.attention.tile_size = 16;
  }
  const std::vector<int32_t> document = is_local ? GemmaIds() : DocumentIds();
  EngineLoad load;
  const std::vector<Answer> plain = LongAnswers(config, document, load);
  CHECK(load.drafted_tokens == 0);
  config.speculation.method = SpeculationMethod::kLookup;
  if (!is_local && GENERATE(false, true)) {
    // Itself: right but for what only the request knows, and where its ring began again.
    config.speculation.method = SpeculationMethod::kDraft;
    config.speculation.draft_path = config.model.path;
  }
  // How much is guessed in each depends on what steps cost, and so on who else uses the machine.
  int64_t num_accepted = 0;
  for (const Company& company :
       std::vector<Company>{{1, 512, 1}, {3, 7, 2}, {16, 64, 2}, {64, 512, 1}}) {
    config.scheduler.max_batch = company.max_batch;
    config.scheduler.prefill_size = company.prefill_size;
    config.num_threads = company.num_threads;
    config.speculation.max_draft = company.max_batch == 3 ? 3 : 16;
    config.speculation.min_match = company.max_batch == 16 ? 1 : 3;
    CAPTURE(company.max_batch, slides);
    const std::vector<Answer> guessed = LongAnswers(config, document, load);
    num_accepted += load.accepted_tokens;
    for (size_t id = 0; id < plain.size(); ++id) {
      CAPTURE(id);
      REQUIRE(guessed[id].token_ids == plain[id].token_ids);
      REQUIRE(guessed[id].digest == plain[id].digest);
    }
  }
  CHECK(num_accepted > 0);
}

// Texts that the constraint makes repeat themselves, and some that end where it is met.
TEST_CASE("nor do constrained answers") {
  EngineConfig config = FairytaleConfig();
  config.device = GENERATE(from_range(TestDevices()));
  const std::vector<int32_t> document = DocumentIds();
  const auto tokenizer = Tokenizer::Load(config.model.path);
  REQUIRE(tokenizer.ok());
  const auto vocabulary = Vocabulary::Of(**tokenizer, 4096);
  REQUIRE(vocabulary.ok());
  ConstraintCompiler compiler(*vocabulary);
  const bool is_json = GENERATE(false, true);
  CAPTURE(is_json);
  const auto constraint =
      is_json ? compiler.JsonSchema(
                    R"({"type": "array", "minItems": 20, "items": {"type": "object",
                        "properties": {"name": {"enum": ["the king", "the queen", "the cat"]}},
                        "required": ["name"], "additionalProperties": false}})")
              : compiler.Regex("((the|a|one) (cat|old man|king|wolf)( and |, |[.] ))+(end)?");
  REQUIRE(constraint.ok());
  EngineLoad load;
  const std::vector<Answer> plain = LongAnswers(config, document, load, constraint->get());
  CHECK(load.drafted_tokens == 0);
  config.speculation.method = SpeculationMethod::kLookup;
  int64_t num_accepted = 0;
  for (const Company& company : std::vector<Company>{{1, 512, 1}, {3, 7, 2}, {16, 64, 2}}) {
    config.scheduler.max_batch = company.max_batch;
    config.scheduler.prefill_size = company.prefill_size;
    config.num_threads = company.num_threads;
    config.speculation.max_draft = company.max_batch == 3 ? 3 : 16;
    config.speculation.min_match = company.max_batch == 16 ? 1 : 3;
    CAPTURE(company.max_batch);
    const std::vector<Answer> guessed = LongAnswers(config, document, load, constraint->get());
    num_accepted += load.accepted_tokens;
    for (size_t id = 0; id < plain.size(); ++id) {
      CAPTURE(id);
      REQUIRE(guessed[id].token_ids == plain[id].token_ids);
      REQUIRE(guessed[id].digest == plain[id].digest);
    }
  }
  CHECK(num_accepted > 0);
}

}  // namespace
}  // namespace ringserve
