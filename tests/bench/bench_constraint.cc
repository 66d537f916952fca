#include "tests/bench/bench_constraint.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/synchronization/mutex.h>
#include <fmt/format.h>

#include "engine/constraint/constraint.h"
#include "engine/engine.h"
#include "engine/sample/sampler.h"
#include "engine/text/tokenizer.h"

namespace ringserve {
namespace {

using Clock = std::chrono::steady_clock;

double Microseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

struct Case {
  std::string name, schema, regex;
};

const std::vector<Case>& Cases() {
  static const std::vector<Case> cases = {
      {"person",
       R"({"type":"object","properties":{"name":{"type":"string","maxLength":40},"age":{"type":"integer",
        "minimum":0,"maximum":150},"email":{"type":"string","format":"email"},"tags":{"type":"array","items":{"enum":
        ["red","green","blue"]},"maxItems":5},"address":{"type":"object","properties":{"street":{"type":"string"},
        "zip":{"type":"string","pattern":"^\\d{5}$"}},"required":["street","zip"],"additionalProperties":false}},
        "required":["name","age","email","tags","address"],"additionalProperties":false})",
       ""},
      {"tree",
       R"({"$ref":"#/$defs/t","$defs":{"t":{"type":"object","properties":{"text":{"type":"string"},
        "children":{"type":"array","items":{"$ref":"#/$defs/t"}}},"required":["text","children"],
        "additionalProperties":false}}})",
       ""},
      {"json_object", R"({"type":"object"})", ""},
      {"regex", "", "[A-Z][a-z]+( [a-z]+){3,200}\\."}};
  return cases;
}

absl::StatusOr<std::shared_ptr<const Constraint>> Compile(const Case& is,
                                                          ConstraintCompiler* compiler) {
  return is.regex.empty() ? compiler->JsonSchema(is.schema) : compiler->Regex(is.regex);
}

struct MaskTimes {
  double total_us = 0;
  double worst_us = 0;  // of one token
  int64_t num_tokens = 0;
};

// Times what the engine asks of a constraint.
class TimedConstraint final : public TokenConstraint {
 public:
  TimedConstraint(std::unique_ptr<TokenConstraint> inside, MaskTimes* times)
      : inside_(std::move(inside)), times_(*times) {}

  std::span<const uint64_t> Allowed() override {
    const auto begin = Clock::now();
    const auto allowed = inside_->Allowed();
    Add(begin);
    return allowed;
  }

  bool MayEnd() override {
    const auto begin = Clock::now();
    const bool may_end = inside_->MayEnd();
    Add(begin);
    return may_end;
  }

  bool Take(int32_t token_id) override {
    const auto begin = Clock::now();
    const bool taken = inside_->Take(token_id);
    Add(begin);
    times_.worst_us = std::max(times_.worst_us, since_take_us_);
    since_take_us_ = 0;
    ++times_.num_tokens;
    return taken;
  }

  void Undo(int64_t num_tokens) override { inside_->Undo(num_tokens); }

 private:
  void Add(Clock::time_point begin) {
    const double took = Microseconds(Clock::now() - begin);
    times_.total_us += took;
    since_take_us_ += took;
  }

  const std::unique_ptr<TokenConstraint> inside_;
  MaskTimes& times_;
  double since_take_us_ = 0;
};

// Waits until so many requests have ended.
class EndSink final : public EventSink {
 public:
  void Publish(std::span<TokenEvent> events) override {
    const absl::MutexLock lock(&mutex_);
    for (const TokenEvent& event : events) {
      num_ended_ += std::holds_alternative<FinishedEvent>(event.event) ? 1 : 0;
      num_failed_ += std::holds_alternative<FailedEvent>(event.event) ? 1 : 0;
    }
  }

  // How many failed.
  int64_t Await(int64_t count) {
    const absl::MutexLock lock(&mutex_);
    const auto done = [&] {
      mutex_.AssertHeld();
      return num_ended_ + num_failed_ >= count;
    };
    mutex_.Await(absl::Condition(&done));
    num_ended_ = 0;
    return std::exchange(num_failed_, 0);
  }

 private:
  absl::Mutex mutex_;
  int64_t num_ended_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t num_failed_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Of sampling one row, what a mask adds.
double ApplyMicroseconds(int32_t vocab_size) {
  constexpr int kRounds = 2000;
  std::vector<float> logits(static_cast<size_t>(vocab_size));
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(i * 7919 % 1000) / 250;
  }
  std::vector<uint64_t> mask((logits.size() + 63) / 64, 0x5555555555555555U);
  const SamplingParams params;
  SampleRow row;
  row.params = &params;
  double plain = 0;
  double masked = 0;
  for (int round = 0; round < kRounds; ++round) {
    row.position = round;
    row.allowed = {};
    auto begin = Clock::now();
    SampleLogits(logits.data(), vocab_size, row);
    plain += Microseconds(Clock::now() - begin);
    row.allowed = mask;
    begin = Clock::now();
    SampleLogits(logits.data(), vocab_size, row);
    masked += Microseconds(Clock::now() - begin);
  }
  return (masked - plain) / kRounds;
}

struct Setup {
  Engine& engine;
  EndSink& sink;
  const Tokenizer& tokenizer;
  const ConstraintBenchOptions& options;
  double apply_us;
};

absl::Status Generate(const Setup& setup, const Constraint& constraint, const char* label) {
  static uint64_t last_id = 0;
  MaskTimes times;
  const EngineLoad before = setup.engine.load();
  for (int32_t i = 0; i < setup.options.num_streams; ++i) {
    GenerateRequest request;
    request.request_id = ++last_id;
    ASSIGN_OR_RETURN(request.prompt, setup.tokenizer.Encode("Once upon a time", {}));
    request.sampling.seed = static_cast<uint64_t>(i);
    request.stopping.max_tokens = setup.options.num_tokens;
    request.constraint = std::make_unique<TimedConstraint>(constraint.Begin(), &times);
    RETURN_IF_ERROR(setup.engine.Submit(std::move(request)));
  }
  if (const int64_t num_failed = setup.sink.Await(setup.options.num_streams); num_failed > 0) {
    return absl::InternalError(fmt::format("{} requests failed", num_failed));
  }
  const EngineLoad after = setup.engine.load();
  const auto num_tokens = static_cast<double>(after.completion_tokens - before.completion_tokens);
  const double step_us =
      absl::ToDoubleMicroseconds(after.step_time - before.step_time) / num_tokens;
  const double mask_us =
      times.total_us / static_cast<double>(std::max<int64_t>(times.num_tokens, 1));
  fmt::print(
      "    {:<6} {:6.0f} tokens, {:7.1f} us of a step each; masks {:6.2f} us (worst {:.0f}), "
      "applying "
      "{:.2f} us: {:.1f} %\n",
      label,
      num_tokens,
      step_us,
      mask_us,
      times.worst_us,
      setup.apply_us,
      100 * (mask_us + setup.apply_us) / step_us);
  return absl::OkStatus();
}

// Words of two to nine letters, with and without a space, numbers and pieces of JSON.
std::vector<std::string> LargeVocabulary() {
  std::vector<std::string> bytes = {""};
  for (int byte = 0; byte < 256; ++byte) {
    bytes.emplace_back(1, static_cast<char>(byte));
  }
  for (const char* piece :
       {"{\"", "\":", "\": ", "\",\"", "\", \"", "\"}", "}}", "],", "},", "[\"", "\":\""}) {
    bytes.emplace_back(piece);
  }
  for (int number = 10; number < 1000; ++number) {
    bytes.push_back(std::to_string(number));
  }
  uint64_t state = 1;
  while (bytes.size() < 128'000) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    std::string word = (state >> 62) != 0 ? " " : "";
    for (uint64_t i = 2 + (state >> 40) % 8, bits = state >> 8; i > 0; --i, bits = bits * 31 + 7) {
      word += static_cast<char>('a' + (bits >> 5) % 26);
    }
    bytes.push_back((state >> 33) % 40 == 0 ? word + "\"," : word);
  }
  return bytes;
}

absl::Status WalkLarge() {
  const std::vector<std::string> bytes = LargeVocabulary();
  auto begin = Clock::now();
  ASSIGN_OR_RETURN(const auto vocabulary, Vocabulary::Create(bytes));
  ConstraintCompiler compiler(vocabulary);
  fmt::print("  a vocabulary of {} words, prepared in {:.0f} ms\n",
             bytes.size(),
             Microseconds(Clock::now() - begin) / 1000);
  for (const Case& is : Cases()) {
    begin = Clock::now();
    ASSIGN_OR_RETURN(const auto constraint, Compile(is, &compiler));
    fmt::print(
        "    {:<12} compiled in {:5.1f} ms", is.name, Microseconds(Clock::now() - begin) / 1000);
    for (const char* label : {"first", "again"}) {
      MaskTimes times;
      for (uint64_t seed = 0; seed < 32; ++seed) {
        TimedConstraint matcher(constraint->Begin(), &times);
        uint64_t state = seed;
        for (int step = 0; step < 150; ++step) {
          const std::span<const uint64_t> mask = matcher.Allowed();
          std::vector<int32_t> ids;
          for (size_t word = 0; word < mask.size(); ++word) {
            for (uint64_t bits = mask[word]; bits != 0; bits &= bits - 1) {
              ids.push_back(static_cast<int32_t>(word * 64) + std::countr_zero(bits));
            }
          }
          if (ids.empty()) {
            break;
          }
          state = state * 6364136223846793005U + 1442695040888963407U;
          matcher.Take(ids[(state >> 33) % ids.size()]);
        }
      }
      fmt::print("; {} {:.2f} us a token (worst {:.0f})",
                 label,
                 times.total_us / static_cast<double>(times.num_tokens),
                 times.worst_us);
    }
    fmt::print("\n");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchConstraint(const ConstraintBenchOptions& options) {
  EndSink sink;
  Engine::Options engine_options;
  engine_options.config = options.config;
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(options.config.model.path));
  ASSIGN_OR_RETURN(const auto engine, Engine::Create(std::move(engine_options), sink));
  const int32_t vocab_size = engine->model_config().vocab_size;
  ASSIGN_OR_RETURN(const auto vocabulary, Vocabulary::Of(*tokenizer, vocab_size));
  ConstraintCompiler compiler(vocabulary);
  const Setup setup = {.engine = *engine,
                       .sink = sink,
                       .tokenizer = *tokenizer,
                       .options = options,
                       .apply_us = ApplyMicroseconds(vocab_size)};
  fmt::print(
      "constrained output, {}, {} streams\n", options.config.model.name, options.num_streams);
  for (const Case& is : Cases()) {
    const auto begin = Clock::now();
    ASSIGN_OR_RETURN(const auto constraint, Compile(is, &compiler));
    fmt::print("  {}, compiled in {:.1f} ms\n", is.name, Microseconds(Clock::now() - begin) / 1000);
    for (const char* label : {"first", "again"}) {
      RETURN_IF_ERROR(Generate(setup, *constraint, label));
    }
  }
  return WalkLarge();
}

}  // namespace ringserve
