// Logits and greedy continuations against Hugging Face's own (tests/fixtures), and sliding contexts
// against the reference in float64.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/model/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"
#include "tests/support/fixture_files.h"
#include "tests/support/model_runner.h"
#include "tests/support/random.h"
#include "tests/support/reference_model.h"

namespace ringserve {
namespace {

const std::string kRoot = RINGSERVE_SOURCE_DIR;

struct Subject {
  Subject(const std::string& folder, DevicePolicy device)
      : Subject(folder, device, Get(LoadModelConfig(folder)).file_dtype) {}

  Subject(const std::string& folder, DevicePolicy device, DType dtype)
      : backend(MakeTestBackend(device)),
        config(Get(LoadModelConfig(folder))),
        weights(Get(Weights::Load(folder, config, dtype, *backend, {}))) {
    const auto checkpoint = Get(Checkpoint::Open(folder));
    for (const FileTensor& tensor : checkpoint->tensors()) {
      tensors[std::string(tensor.name)] = Floats(tensor);
    }
  }

  // A session of `shape` fed with `ids` in steps of `chunk`.
  std::vector<float> Logits(const std::vector<int32_t>& ids,
                            const SessionShape& shape,
                            int32_t chunk) {
    const TileOptions tiles = {.split_size = backend->info().split_size};
    return Get(
        Get(ModelRunner::Create(config, *weights, shape, 128, tiles, *backend))->Feed(ids, chunk));
  }

  template <typename T>
  std::vector<T> Reference(const std::vector<int32_t>& ids,
                           ReferenceContext context,
                           ReferenceRounding round) {
    ReferenceModel<T> model(config, tensors, context, round);
    std::vector<T> logits;
    for (const int32_t id : ids) {
      const std::vector<T> row = model.Push(id);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    return logits;
  }

  std::unique_ptr<Backend> backend;
  ModelConfig config;
  std::unique_ptr<Weights> weights;
  ReferenceModel<double>::Tensors tensors;
};

SessionShape Shape(int64_t buffer_size, int32_t block_size, int32_t sink_size, bool slides) {
  return {.buffer_size = buffer_size,
          .block_size = block_size,
          .sink_size = sink_size,
          .feedback_size = buffer_size,
          .slides = slides};
}

// Feeds `prompt` and then Hugging Face's own continuation; wherever the engine's choice differs,
// the two best logits of the truth must be closer than what rounding can move.
void CheckGreedy(Subject& subject,
                 const std::vector<int32_t>& prompt,
                 const std::vector<int32_t>& greedy,
                 double error) {
  std::vector<int32_t> ids = prompt;
  ids.insert(ids.end(), greedy.begin(), greedy.end() - 1);
  const std::vector<float> logits = subject.Logits(ids, Shape(1024, 64, 0, false), 128);
  const auto vocab = static_cast<size_t>(subject.config.vocab_size);
  int differing = 0;
  for (size_t i = 0; i < greedy.size(); ++i) {
    const float* row = logits.data() + (prompt.size() - 1 + i) * vocab;
    const auto best = static_cast<int32_t>(std::max_element(row, row + vocab) - row);
    if (best != greedy[i]) {
      ++differing;
      CHECK(row[best] - row[greedy[i]] <= 2 * error);
    }
  }
  CHECK(differing <= std::max(2, static_cast<int>(greedy.size()) / 16));
}

// Ours against the reference in float64 (at most twice the error of plain arithmetic that rounds
// where the kernels round), and the reference against Hugging Face's float32. Returns the error
// allowed. `hf_frequencies_rounded`: the fixture was computed by a model that had been cast to bf16
// in memory, its rotary frequencies with it; one loaded from its folder keeps them in float32.
double CheckLogits(Subject& subject,
                   const std::vector<int32_t>& ids,
                   const std::vector<float>& hugging_face,
                   bool hf_frequencies_rounded,
                   const SessionShape& shape = Shape(1024, 64, 0, false)) {
  const ReferenceContext context = {.length =
                                        std::min(shape.buffer_size, subject.config.max_positions)};
  const auto truth = subject.Reference<double>(ids, context, {});
  const double float_error = MaxError(subject.Reference<float>(ids, context, {}), truth);
  CHECK(MaxError(hugging_face,
                 subject.Reference<double>(
                     ids, context, {.frequencies = hf_frequencies_rounded})) <= 4 * float_error);
  const double allowed =
      2 * MaxError(subject.Reference<float>(ids, context, {.activations = true}), truth) +
      OneUlp(MaxAbs(truth), DType::kF32);
  for (const int32_t chunk : {1, 7, 128}) {
    const std::vector<float> got = subject.Logits(ids, shape, chunk);
    INFO("chunk " << chunk);
    CHECK(MaxError(got, truth) <= allowed);
    CHECK(MaxError(got, hugging_face) <= allowed);
  }
  return allowed;
}

TEST_CASE("fairytale-5m computes what Hugging Face computes") {
  Subject subject(kRoot + "/models/fairytale-5m", GENERATE(from_range(TestDevices())));
  const std::string fixtures = kRoot + "/tests/fixtures/fairytale-5m/";
  const auto cases =
      Get(ParseJson(Get(ReadFile(fixtures + "reference.json", 1 << 20)), "reference.json"));
  const auto logits = Get(SafetensorsFile::Open(fixtures + "logits.safetensors"));
  for (size_t i = 0; i < logits->size(); ++i) {
    const FileTensor tensor = logits->tensor(i);
    const auto& entry = cases.at(std::stoul(std::string(tensor.name.substr(7))));
    const auto prompt = entry.at("prompt_token_ids").get<std::vector<int32_t>>();
    const double error = CheckLogits(subject, prompt, Floats(tensor), false);
    CheckGreedy(subject, prompt, entry.at("greedy_token_ids").get<std::vector<int32_t>>(), error);
  }

  const auto& document = cases.back();
  const auto ids = document.at("document_token_ids").get<std::vector<int32_t>>();
  const auto vocab = static_cast<size_t>(subject.config.vocab_size);
  const auto rows = subject.Logits(ids, Shape(1024, 64, 0, false), 128);
  double sum = 0;
  for (size_t i = 1; i < ids.size(); ++i) {
    const float* row = rows.data() + (i - 1) * vocab;
    double mass = 0;
    for (size_t token = 0; token < vocab; ++token) {
      mass += std::exp(static_cast<double>(row[token]));
    }
    sum += std::log(mass) - static_cast<double>(row[ids[i]]);
  }
  CHECK(std::abs(sum / static_cast<double>(ids.size() - 1) -
                 document.at("mean_nll").get<double>()) <= 0.002);
}

TEST_CASE("Random models of every family compute what Hugging Face computes") {
  const std::string name = GENERATE("zoo/llama-gqa",
                                    "zoo/llama3-rope",
                                    "zoo/qwen2-bias",
                                    "zoo/qwen3-qknorm",
                                    "zoo/mistral-window",
                                    "zoo/gemma3-text",
                                    "zoo/gpt2",
                                    "families/llama-yarn-bias",
                                    "families/llama-dynamic",
                                    "families/qwen2-window",
                                    "families/gemma2",
                                    "families/gemma3-linear",
                                    "families/phi3",
                                    "families/phi3-longrope",
                                    "families/gpt2-odd",
                                    "families/qwen3-moe-mixed",
                                    "families/mixtral");
  INFO(name);
  const std::string folder = kRoot + "/tests/fixtures/" + name;
  Subject subject(folder, GENERATE(from_range(TestDevices())));
  const auto file = Get(SafetensorsFile::Open(folder + "/reference.safetensors"));
  const auto reference = References(*file);
  const auto ids = Ints(reference.at("input_ids"));
  // The zoo's models were cast to bf16 in memory, the families' were loaded from their folders.
  const bool rounded = name.starts_with("zoo/");
  const double error = CheckLogits(subject, ids, Floats(reference.at("logits")), rounded);
  CheckGreedy(subject, ids, Ints(reference.at("greedy")), error);
}

TEST_CASE("Every family is exact in float32") {
  // In bf16 a router of gpt-oss takes another expert where two are as good as equal.
  const std::string name = GENERATE("zoo/qwen3-qknorm",
                                    "zoo/mistral-window",
                                    "zoo/gemma3-text",
                                    "families/llama-yarn-bias",
                                    "families/gemma2",
                                    "families/phi3-longrope",
                                    "families/gpt2-odd",
                                    "families/qwen3-moe-mixed",
                                    "families/gpt-oss");
  INFO(name);
  const std::string folder = kRoot + "/tests/fixtures/" + name;
  Subject subject(folder, DevicePolicy::kCpu, DType::kF32);
  const auto file = Get(SafetensorsFile::Open(folder + "/reference.safetensors"));
  const auto reference = References(*file);
  const auto ids = Ints(reference.at("input_ids"));
  const auto truth = subject.Reference<double>(ids, {}, {});
  const double float_error = MaxError(subject.Reference<float>(ids, {}, {}), truth);
  if (name.starts_with("families/")) {
    CHECK(MaxError(Floats(reference.at("logits")), truth) <= 4 * float_error);
  }
  for (const int32_t chunk : {1, 7, 128}) {
    const std::vector<float> got = subject.Logits(ids, Shape(1024, 64, 0, false), chunk);
    CHECK(MaxError(got, truth) <= 2 * float_error + OneUlp(MaxAbs(truth), DType::kF32));
  }
}

// Halves keep three more bits than bf16 does, so the same bound is generous.
TEST_CASE("Float16 computes what bf16 computes where the device has it") {
  const std::string name = GENERATE("models/fairytale-5m",
                                    "tests/fixtures/zoo/llama-gqa",
                                    "tests/fixtures/zoo/qwen2-bias",
                                    "tests/fixtures/zoo/gemma3-text",
                                    "tests/fixtures/families/gemma2",
                                    "tests/fixtures/families/gpt2-odd");
  INFO(name);
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  if (!MakeTestBackend(device)->info().runs_f16) {
    return;
  }
  Subject subject(kRoot + "/" + name, device, DType::kF16);
  std::vector<int32_t> ids(90);
  Random random(5);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random.Int(0, subject.config.vocab_size - 1));
  }
  const auto truth = subject.Reference<double>(ids, {}, {});
  const double allowed =
      2 * MaxError(subject.Reference<float>(ids, {}, {.activations = true}), truth) +
      OneUlp(MaxAbs(truth), DType::kF32);
  const SessionShape shape = Shape(1024, 64, 0, false);
  const std::vector<float> one_by_one = subject.Logits(ids, shape, 1);
  CHECK(MaxError(one_by_one, truth) <= allowed);
  for (const int32_t chunk : {7, 128}) {
    CHECK(SameBits(subject.Logits(ids, shape, chunk), one_by_one));
  }
}

TEST_CASE("A short context of LongRoPE takes the short factors") {
  const std::string folder = kRoot + "/tests/fixtures/families/phi3-longrope";
  Subject subject(folder, GENERATE(from_range(TestDevices())));
  const auto file = Get(SafetensorsFile::Open(folder + "/reference.safetensors"));
  const auto reference = References(*file);
  auto ids = Ints(reference.at("input_ids"));
  ids.resize(32);
  CheckLogits(subject, ids, Floats(reference.at("short_logits")), false, Shape(32, 16, 0, false));
}

TEST_CASE("A window is exact and its rings constant, whatever the size of blocks") {
  // Windows of 40, 5 and 32, and of 20 beside experts.
  const std::string name =
      GENERATE("zoo/mistral-window", "families/gemma3-linear", "families/mixtral");
  const int32_t block_size = GENERATE(8, 16, 64);
  CAPTURE(name, block_size);
  Subject subject(kRoot + "/tests/fixtures/" + name, GENERATE(from_range(TestDevices())));
  std::vector<int32_t> ids(120);
  Random random(11);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random.Int(0, subject.config.vocab_size - 1));
  }
  const auto truth = subject.Reference<double>(ids, {}, {});
  const double allowed =
      2 * MaxError(subject.Reference<float>(ids, {}, {.activations = true}), truth) +
      OneUlp(MaxAbs(truth), DType::kF32);
  const SessionShape shape = Shape(128, block_size, 0, false);
  const std::vector<float> one_by_one = subject.Logits(ids, shape, 1);
  CHECK(MaxError(one_by_one, truth) <= allowed);
  for (const int32_t chunk : {3, 8, 100}) {
    CHECK(SameBits(subject.Logits(ids, shape, chunk), one_by_one));
  }
}

TEST_CASE("A context that slides sees its window and its sinks") {
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  const int32_t sink_size = GENERATE(0, 4);
  Subject subject(kRoot + "/tests/fixtures/zoo/llama-gqa", device);
  const ReferenceContext context = {.buffer_size = 32, .block_size = 8, .sink_size = sink_size};
  std::vector<int32_t> ids(100);
  Random random(7);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random.Int(0, subject.config.vocab_size - 1));
  }
  const auto truth = subject.Reference<double>(ids, context, {});
  const double allowed =
      2 * MaxError(subject.Reference<float>(ids, context, {.activations = true}), truth) +
      OneUlp(MaxAbs(truth), DType::kF32);
  const SessionShape shape = Shape(32, 8, sink_size, true);
  const std::vector<float> one_by_one = subject.Logits(ids, shape, 1);
  CHECK(MaxError(one_by_one, truth) <= allowed);
  for (const int32_t chunk : {3, 8, 100}) {
    CHECK(SameBits(subject.Logits(ids, shape, chunk), one_by_one));
  }
}

}  // namespace
}  // namespace ringserve
