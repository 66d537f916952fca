// Scores and embeddings of real engines: against the reference in float64 for every family, against
// what Generate echoes, and the same to the bit whatever the company.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/safetensors.h"
#include "engine/model/tensor_source.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"
#include "tests/support/engine_run.h"
#include "tests/support/fixture_files.h"
#include "tests/support/random.h"
#include "tests/support/reading_requests.h"
#include "tests/support/reference_model.h"

namespace ringserve {
namespace {

using Tokens = std::vector<int32_t>;

// How far the experts that are taken stand before those that are not, in the router's logits.
double Margin(const ReferenceRoute& route) {
  double margin = std::numeric_limits<double>::infinity();
  for (size_t layer = 0; layer < route.logits.size(); ++layer) {
    const std::vector<double>& logits = route.logits[layer];
    const std::vector<int32_t>& taken = route.experts[layer];
    for (size_t expert = 0; expert < logits.size(); ++expert) {
      if (std::find(taken.begin(), taken.end(), static_cast<int32_t>(expert)) == taken.end()) {
        for (const int32_t other : taken) {
          margin = std::min(margin, logits[static_cast<size_t>(other)] - logits[expert]);
        }
      }
    }
  }
  return margin;
}

double RouterError(const ReferenceRoute& a, const ReferenceRoute& b) {
  double error = 0;
  for (size_t layer = 0; layer < a.logits.size(); ++layer) {
    for (size_t expert = 0; expert < a.logits[layer].size(); ++expert) {
      error = std::max(error, std::abs(a.logits[layer][expert] - b.logits[layer][expert]));
    }
  }
  return error;
}

// A text of which a mixture's experts are beyond doubt: arithmetic within the error that the tests
// allow takes the truth's (routed_reference.h says what else would happen).
class DecidedText {
 public:
  DecidedText(const ReferenceModel<double>& truth, const ReferenceModel<float>& plain)
      : truth_(truth), plain_(plain) {}

  // Goes on with random tokens.
  Tokens Add(Random& random, int32_t vocab_size, size_t length) {
    Tokens tokens;
    for (int tries = 0; tokens.size() < length; ++tries) {
      REQUIRE(tries < 2000);
      const auto token_id = static_cast<int32_t>(random.Int(3, vocab_size - 1));
      ReferenceModel<double> truth = *truth_;
      ReferenceModel<float> plain = *plain_;
      ReferenceRoute route;
      truth.Push(token_id, route);
      ReferenceRoute same = {.experts = route.experts, .logits = {}};
      plain.Push(token_id, same);
      router_error_ = std::max(router_error_, RouterError(route, same));
      // Each of two logits may be twice as wrong as the yardstick's.
      if (Margin(route) > 4 * router_error_) {
        tokens.push_back(token_id);
        truth_.emplace(std::move(truth));
        plain_.emplace(std::move(plain));
      }
    }
    return tokens;
  }

 private:
  // Optional: they hold references and cannot be assigned to.
  std::optional<ReferenceModel<double>> truth_;
  std::optional<ReferenceModel<float>> plain_;
  double router_error_ = 0;
};

Tokens Join(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Transcript Await(FakeSink& sink, uint64_t id) {
  sink.AwaitEnd(id);
  Transcript got = sink.transcript(id);
  INFO((got.failed.has_value() ? got.failed->status.ToString() : "finished"));
  REQUIRE(got.finished.has_value());
  return got;
}

std::vector<double> Logprobs(const Transcript& got) {
  std::vector<double> logprobs;
  for (const ScoredToken& token : got.tokens) {
    logprobs.push_back(static_cast<double>(token.token.logprob));
  }
  return logprobs;
}

template <typename T>
double Logprob(const std::vector<T>& logits, int32_t token_id) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const T logit : logits) {
    largest = std::max(largest, static_cast<double>(logit));
  }
  double mass = 0;
  for (const T logit : logits) {
    mass += std::exp(static_cast<double>(logit) - largest);
  }
  return static_cast<double>(logits[static_cast<size_t>(token_id)]) - largest - std::log(mass);
}

// A family's folder, read twice.
struct Subject {
  // `defers`: as the device does.
  Subject(const std::string& name, bool defers)
      : folder(std::string(RINGSERVE_SOURCE_DIR) + "/tests/fixtures/" + name),
        defers_norms(defers),
        config(Get(LoadModelConfig(folder))) {
    const auto checkpoint = Get(Checkpoint::Open(folder));
    for (const FileTensor& tensor : checkpoint->tensors()) {
      tensors[std::string(tensor.name)] = Floats(tensor);
    }
  }

  template <typename T>
  ReferenceModel<T> Reference(bool rounds) const {
    return ReferenceModel<T>(config,
                             tensors,
                             {.length = 128},
                             {.activations = rounds, .deferred_norms = rounds && defers_norms});
  }

  template <typename T>
  std::vector<double> Score(const Tokens& prompt, const Tokens& continuation, bool rounds) const {
    ReferenceModel<T> model = Reference<T>(rounds);
    std::vector<T> logits;
    for (const int32_t token_id : prompt) {
      logits = model.Push(token_id);
    }
    std::vector<double> logprobs;
    for (const int32_t token_id : continuation) {
      logprobs.push_back(Logprob(logits, token_id));
      logits = model.Push(token_id);
    }
    return logprobs;
  }

  template <typename T>
  std::vector<double> Embed(const Tokens& input, const EmbeddingParams& params, bool rounds) const {
    ReferenceModel<T> model = Reference<T>(rounds);
    std::vector<double> sum(static_cast<size_t>(config.hidden_dim));
    for (size_t i = 0; i < input.size(); ++i) {
      model.Push(input[i]);
      for (size_t j = 0; j < sum.size(); ++j) {
        const bool counts = params.pooling == Pooling::kMean || i + 1 == input.size();
        sum[j] += counts ? static_cast<double>(model.hidden()[j]) : 0;
      }
    }
    double divisor = params.pooling == Pooling::kMean ? static_cast<double>(input.size()) : 1;
    if (params.normalize) {
      divisor = 0;
      for (const double value : sum) {
        divisor += value * value;
      }
      divisor = std::sqrt(divisor);
    }
    for (double& value : sum) {
      value /= divisor;
    }
    return sum;
  }

  std::string folder;
  bool defers_norms;
  ModelConfig config;
  ReferenceModel<double>::Tensors tensors;
};

EngineConfig Config(const std::string& folder, DevicePolicy device) {
  EngineConfig config = FairytaleConfig();
  config.device = device;
  config.model = {.name = "family", .path = folder};
  config.rings = {.buffer_size = 128, .block_size = 16};
  config.attention = {.tile_size = 16};
  config.scheduler.prefill_size = 13;
  config.scheduler.max_batch = 3;
  return config;
}

double Allowed(const std::vector<double>& plain, const std::vector<double>& truth) {
  return 2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), DType::kF32);
}

TEST_CASE("every family scores and embeds as the reference in float64") {
  const std::string name = GENERATE("zoo/llama-gqa",
                                    "zoo/qwen3-qknorm",
                                    "zoo/mistral-window",
                                    "zoo/gemma3-text",
                                    "zoo/gpt2",
                                    "families/gemma2",
                                    "families/phi3",
                                    "zoo/qwen3-moe",
                                    "families/qwen3-moe-mixed",
                                    "families/mixtral",
                                    "families/gpt-oss");
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  CAPTURE(name, device == DevicePolicy::kCuda);
  const Subject subject(name, device == DevicePolicy::kCuda);
  FakeSink sink;
  const auto engine = StartEngine(Config(subject.folder, device), sink);
  Random random(7);
  DecidedText text(subject.Reference<double>(false), subject.Reference<float>(true));
  const Tokens prompt = text.Add(random, subject.config.vocab_size, 37);
  std::vector<Tokens> continuations;
  for (const size_t length : {11, 1, 23, 16}) {
    DecidedText branch = text;
    continuations.push_back(branch.Add(random, subject.config.vocab_size, length));
  }
  REQUIRE(engine->Submit(ScoreRequest(1, prompt, continuations)).ok());
  std::vector<double> got;
  std::vector<double> truth;
  std::vector<double> plain;
  for (size_t i = 0; i < continuations.size(); ++i) {
    for (const double logprob : Logprobs(Await(sink, 1 + i))) {
      got.push_back(logprob);
    }
    for (const double logprob : subject.Score<double>(prompt, continuations[i], false)) {
      truth.push_back(logprob);
    }
    for (const double logprob : subject.Score<float>(prompt, continuations[i], true)) {
      plain.push_back(logprob);
    }
  }
  CHECK(MaxError(got, truth) <= Allowed(plain, truth));

  uint64_t id = 100;
  for (const EmbeddingParams& params :
       {EmbeddingParams{.pooling = Pooling::kLastToken},
        EmbeddingParams{.pooling = Pooling::kMean},
        EmbeddingParams{.pooling = Pooling::kMean, .normalize = true}}) {
    const std::vector<Tokens> inputs = {prompt, Join(prompt, continuations[2])};
    REQUIRE(engine->Submit(EmbedRequest(id, inputs, params)).ok());
    for (const Tokens& input : inputs) {
      const Transcript embedded = Await(sink, id++);
      const auto exact = subject.Embed<double>(input, params, false);
      CHECK(MaxError(embedded.embedding, exact) <=
            Allowed(subject.Embed<float>(input, params, true), exact));
    }
  }
}

// What many readings came to, to the bit.
struct Readings {
  std::vector<uint64_t> digests;
  std::vector<std::vector<float>> embeddings;
  bool operator==(const Readings&) const = default;
};

// All at once, beside requests that generate.
Readings ReadAll(EngineConfig config, int32_t max_batch, int32_t prefill_size, int32_t threads) {
  config.scheduler.max_batch = max_batch;
  config.scheduler.prefill_size = prefill_size;
  config.num_threads = threads;
  FakeSink sink;
  const auto engine = StartEngine(config, sink);
  const Tokens document = FairytaleReference()[4]["document_token_ids"];
  constexpr uint64_t kCount = 12;
  std::mt19937_64 random(5);
  const auto piece = [&](size_t most) {
    const size_t length = 1 + random() % most;
    const auto first =
        document.begin() + static_cast<std::ptrdiff_t>(random() % (document.size() - length));
    return Tokens(first, first + static_cast<std::ptrdiff_t>(length));
  };
  for (uint64_t i = 0; i < kCount; ++i) {
    const Tokens prompt = piece(90);
    const std::vector<Tokens> continuations = {piece(9), piece(30), piece(3)};
    REQUIRE(engine->Submit(ScoreRequest(10 * i, prompt, continuations)).ok());
    const EmbeddingParams params = {.pooling = i % 2 == 0 ? Pooling::kMean : Pooling::kLastToken,
                                    .normalize = i % 3 == 0};
    REQUIRE(engine->Submit(EmbedRequest(10 * i + 3, {piece(90), piece(20)}, params)).ok());
    GenerateRequest request;
    request.request_id = 10 * i + 5;
    request.prompt = piece(40);
    REQUIRE(engine->Submit(std::move(request)).ok());
  }
  Readings readings;
  for (uint64_t i = 0; i < kCount; ++i) {
    for (uint64_t part = 0; part < 3; ++part) {
      readings.digests.push_back(Await(sink, 10 * i + part).finished->replay_digest);
    }
    for (uint64_t part = 3; part < 5; ++part) {
      readings.embeddings.push_back(Await(sink, 10 * i + part).embedding);
    }
    Await(sink, 10 * i + 5);
  }
  return readings;
}

TEST_CASE("scores and embeddings do not depend on batch, chunks, company or threads") {
  EngineConfig config = FairytaleConfig();
  config.device = GENERATE(from_range(TestDevices()));
  const bool slides = GENERATE(false, true);
  if (slides) {
    config.rings = {
        .buffer_size = 64, .block_size = 16, .sink_size = 4, .overflow = OverflowPolicy::kSlide};
    config.attention.tile_size = 16;
  }
  const Readings alone = ReadAll(config, 1, 512, 1);
  CHECK(alone == ReadAll(config, 64, 7, 2));
  CHECK(alone == ReadAll(config, 3, 64, 3));
  CHECK(alone == ReadAll(config, 16, 1, 1));
}

TEST_CASE("scores are the log probabilities that Generate echoes") {
  EngineConfig config = FairytaleConfig();
  config.device = GENERATE(from_range(TestDevices()));
  FakeSink sink;
  const auto engine = StartEngine(config, sink);
  const Tokens document = FairytaleReference()[4]["document_token_ids"];
  const Tokens prompt(document.begin(), document.begin() + 70);
  const std::vector<Tokens> continuations = {{document.begin() + 70, document.begin() + 200},
                                             {document.begin() + 30, document.begin() + 31},
                                             {document.begin() + 100, document.begin() + 140}};
  REQUIRE(engine->Submit(ScoreRequest(10, prompt, continuations)).ok());
  for (size_t i = 0; i < continuations.size(); ++i) {
    GenerateRequest echo;
    echo.request_id = 100 + i;
    echo.prompt = Join(prompt, continuations[i]);
    echo.stopping.max_tokens = 1;
    echo.output.prompt_logprobs = true;
    echo.output.num_logprobs = 1;  // as a score: on CUDA the host adds up the rows of both then
    REQUIRE(engine->Submit(std::move(echo)).ok());
    const Transcript scored = Await(sink, 10 + i);
    const Transcript echoed = Await(sink, 100 + i);
    REQUIRE(scored.tokens.size() == continuations[i].size());
    for (size_t j = 0; j < scored.tokens.size(); ++j) {
      const TokenLogprob& said = echoed.prompt[prompt.size() - 1 + j].token;
      REQUIRE(scored.tokens[j].token.token_id == said.token_id);
      REQUIRE(scored.tokens[j].token.logprob == said.logprob);
    }
  }
}

}  // namespace
}  // namespace ringserve
