// Logits and greedy continuations against Hugging Face's own (tests/fixtures), and sliding contexts
// against the reference in float64.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/json_reader.h"
#include "engine/model/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"
#include "tests/support/model_runner.h"
#include "tests/support/random.h"
#include "tests/support/reference_model.h"

namespace ringserve {
namespace {

const std::string kRoot = RINGSERVE_SOURCE_DIR;

template <typename T>
T Get(absl::StatusOr<T> result) {
  INFO(result.status().ToString());
  REQUIRE(result.ok());
  return *std::move(result);
}

std::vector<float> Floats(const FileTensor& tensor) {
  std::vector<float> values;
  if (tensor.dtype == "F32") {
    values.resize(tensor.data.size() / sizeof(float));
    std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
    return values;
  }
  REQUIRE(tensor.dtype == "BF16");
  std::vector<Bf16> halves(tensor.data.size() / sizeof(Bf16));
  std::memcpy(halves.data(), tensor.data.data(), tensor.data.size());
  for (const Bf16 half : halves) {
    values.push_back(ToFloat(half));
  }
  return values;
}

std::vector<int32_t> Ints(const FileTensor& tensor) {
  REQUIRE(tensor.dtype == "I32");
  std::vector<int32_t> values(tensor.data.size() / sizeof(int32_t));
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

struct Subject {
  Subject(const std::string& folder, DevicePolicy device)
      : backend(MakeTestBackend(device)),
        config(Get(LoadModelConfig(folder))),
        weights(Get(Weights::Load(folder, config, config.file_dtype, *backend, {}))) {
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
  CHECK(differing <= static_cast<int>(greedy.size()) / 16);
}

// Ours against the reference in float64 (at most twice the error of plain arithmetic that rounds
// where the kernels round), and the reference against Hugging Face's float32. Returns the error
// allowed. `hf_frequencies_rounded`: the fixture was computed by a model that had been cast to bf16
// in memory, its rotary frequencies with it; one loaded from its folder keeps them in float32.
double CheckLogits(Subject& subject,
                   const std::vector<int32_t>& ids,
                   const std::vector<float>& hugging_face,
                   bool hf_frequencies_rounded) {
  const auto truth = subject.Reference<double>(ids, {}, {});
  const double float_error = MaxError(subject.Reference<float>(ids, {}, {}), truth);
  CHECK(MaxError(hugging_face,
                 subject.Reference<double>(ids, {}, {.frequencies = hf_frequencies_rounded})) <=
        4 * float_error);
  const double allowed =
      2 * MaxError(subject.Reference<float>(ids, {}, {.activations = true}), truth) +
      OneUlp(MaxAbs(truth), DType::kF32);
  for (const int32_t chunk : {1, 7, 128}) {
    const std::vector<float> got = subject.Logits(ids, Shape(1024, 64, 0, false), chunk);
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

TEST_CASE("Random Llamas compute what Hugging Face computes") {
  const std::string name = GENERATE("llama-gqa", "llama3-rope");
  INFO(name);
  const std::string folder = kRoot + "/tests/fixtures/zoo/" + name;
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  if (device == DevicePolicy::kCuda && name == "llama3-rope") {
    CHECK(MakeTestBackend(device)
              ->CheckModel(Get(LoadModelConfig(folder)), DType::kBf16)
              .ToString()
              .find("head_dim: 32") != std::string::npos);
    return;
  }
  Subject subject(folder, device);
  const auto file = Get(SafetensorsFile::Open(folder + "/reference.safetensors"));
  std::map<std::string, FileTensor> reference;
  for (size_t i = 0; i < file->size(); ++i) {
    reference[std::string(file->tensor(i).name)] = file->tensor(i);
  }
  const auto ids = Ints(reference.at("input_ids"));
  const double error = CheckLogits(subject, ids, Floats(reference.at("logits")), true);
  CheckGreedy(subject, ids, Ints(reference.at("greedy")), error);
}

TEST_CASE("A context that slides sees its window and its sinks") {
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  const int32_t sink_size = GENERATE(0, 4);
  if (device == DevicePolicy::kCuda && sink_size > 0) {
    return;  // the CUDA kernels read no sinks; a config that asks for them is refused
  }
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
