#include "tests/bench/bench_speculation.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <fmt/format.h>

#include "engine/constraint/constraint.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "engine/text/tokenizer.h"

namespace ringserve {
namespace {

// Counts what is made, and wakes who waits for the end.
class CountingSink final : public EventSink {
 public:
  void Publish(std::span<TokenEvent> events) override {
    const absl::MutexLock lock(&mutex_);
    for (const TokenEvent& event : events) {
      if (const auto* finished = std::get_if<FinishedEvent>(&event.event)) {
        usage_.completion_tokens += finished->usage.completion_tokens;
        usage_.drafted_tokens += finished->usage.drafted_tokens;
        usage_.accepted_tokens += finished->usage.accepted_tokens;
        digests_ ^= finished->replay_digest;
        --num_live_;
      } else if (const auto* failed = std::get_if<FailedEvent>(&event.event)) {
        status_.Update(failed->status);
        --num_live_;
      }
    }
  }

  void Expect(int32_t num_requests) {
    const absl::MutexLock lock(&mutex_);
    num_live_ = num_requests;
    usage_ = {};
    digests_ = 0;
  }

  absl::Status Await(Usage& usage, uint64_t& digests) {
    const absl::MutexLock lock(&mutex_);
    const auto is_done = [this] {
      mutex_.AssertHeld();
      return num_live_ == 0;
    };
    mutex_.Await(absl::Condition(&is_done));
    usage = usage_;
    digests = digests_;
    return status_;
  }

 private:
  absl::Mutex mutex_;
  int32_t num_live_ ABSL_GUARDED_BY(mutex_) = 0;
  Usage usage_ ABSL_GUARDED_BY(mutex_);
  uint64_t digests_ ABSL_GUARDED_BY(mutex_) = 0;  // of all requests together
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

// What is asked for again and again: a list of records, whose keys and punctuation come back.
constexpr char kRecords[] =
    R"({"type":"array","minItems":60,"maxItems":100,"items":{"type":"object","properties":{
        "name":{"type":"string","maxLength":12},"age":{"type":"integer","minimum":0,"maximum":150},
        "kind":{"enum":["king","miller","fox"]},"is_clever":{"type":"boolean"}},
        "required":["name","age","kind","is_clever"],"additionalProperties":false}})";

struct Text {
  const char* name = nullptr;
  std::vector<int32_t> prompt;
  float temperature = 0;
  const Constraint* constraint = nullptr;  // null: none
};

struct Run {
  double tokens_per_second = 0;
  Usage usage;
  uint64_t digests = 0;
};

class Bench {
 public:
  Bench(const SpeculationBenchOptions& options, Engine& engine, CountingSink& sink)
      : options_(options), engine_(engine), sink_(sink) {}

  absl::Status Compare(const Text& text, int32_t num_streams) {
    std::vector<double> plain;
    std::vector<double> guessed;
    std::vector<double> ratios;
    Run last;
    // The first round warms up.
    for (int32_t round = 0; round <= options_.rounds; ++round) {
      ASSIGN_OR_RETURN(const Run without, Stream(text, num_streams, false));
      ASSIGN_OR_RETURN(last, Stream(text, num_streams, true));
      if (without.digests != last.digests) {
        return absl::InternalError("answers differ");
      }
      if (round > 0) {
        plain.push_back(without.tokens_per_second);
        guessed.push_back(last.tokens_per_second);
        ratios.push_back(last.tokens_per_second / without.tokens_per_second);
      }
    }
    std::printf(
        "  %-24s %3d streams: %8.0f tokens/s, without %8.0f: %.2f times (%.2f to %.2f); "
        "drafted %ld, held %ld of %ld tokens\n",
        text.name,
        num_streams,
        Median(guessed),
        Median(plain),
        Median(ratios),
        *std::min_element(ratios.begin(), ratios.end()),
        *std::max_element(ratios.begin(), ratios.end()),
        static_cast<long>(last.usage.drafted_tokens),
        static_cast<long>(last.usage.accepted_tokens),
        static_cast<long>(last.usage.completion_tokens));
    std::fflush(stdout);
    return absl::OkStatus();
  }

 private:
  static double Median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }

  absl::StatusOr<Run> Stream(const Text& text, int32_t num_streams, bool speculate) {
    sink_.Expect(num_streams);
    const auto started = std::chrono::steady_clock::now();
    for (int32_t i = 0; i < num_streams; ++i) {
      GenerateRequest request;
      request.request_id = ++last_id_;
      request.prompt = text.prompt;
      request.sampling.temperature = text.temperature;
      request.sampling.seed = static_cast<uint64_t>(i);
      request.stopping.max_tokens = options_.num_tokens;
      request.stopping.ignore_eos = text.constraint == nullptr;
      if (text.constraint != nullptr) {
        request.constraint = text.constraint->Begin();
      }
      request.speculate = speculate;
      RETURN_IF_ERROR(engine_.Submit(std::move(request)));
    }
    Run run;
    RETURN_IF_ERROR(sink_.Await(run.usage, run.digests));
    run.tokens_per_second =
        static_cast<double>(run.usage.completion_tokens) /
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    return run;
  }

  const SpeculationBenchOptions& options_;
  Engine& engine_;
  CountingSink& sink_;
  uint64_t last_id_ = 0;
};

}  // namespace

absl::Status BenchSpeculation(const SpeculationBenchOptions& options) {
  if (options.config.speculation.method == SpeculationMethod::kOff) {
    return absl::InvalidArgumentError("speculation.method: \"off\", and it is to be measured");
  }
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(options.config.model.path));
  const std::string tale =
      "Once upon a time there was a king who had three sons, and the youngest was called Hans. ";
  ASSIGN_OR_RETURN(const std::vector<int32_t> once, tokenizer->Encode(tale, {}));
  ASSIGN_OR_RETURN(const std::vector<int32_t> often, tokenizer->Encode(tale + tale + tale, {}));
  CountingSink sink;
  ASSIGN_OR_RETURN(const auto engine, Engine::Create({.config = options.config}, sink));
  ASSIGN_OR_RETURN(const auto vocabulary,
                   Vocabulary::Of(*tokenizer, engine->model_config().vocab_size));
  ConstraintCompiler compiler(vocabulary);
  ASSIGN_OR_RETURN(const auto records, compiler.JsonSchema(kRecords));
  const std::vector<Text> texts = {
      {"ordinary, sampled", once, 1.0F},
      {"ordinary, greedy", once, 0.0F},
      {"repeats itself, greedy", often, 0.0F},
      {"a JSON schema, sampled", once, 1.0F, records.get()},
      {"a JSON schema, greedy", once, 0.0F, records.get()},
  };
  std::printf("speculation by lookup: %s, max_draft %d, min_match %d, %s\n",
              options.config.model.name.c_str(),
              options.config.speculation.max_draft,
              options.config.speculation.min_match,
              engine->device_description().c_str());
  Bench bench(options, *engine, sink);
  for (const Text& text : texts) {
    for (const int32_t num_streams : {1, 8, 32}) {
      RETURN_IF_ERROR(bench.Compare(text, num_streams));
    }
  }
  return absl::OkStatus();
}

}  // namespace ringserve
