// Encoder-decoders against Hugging Face's logits and greedy continuations (tests/fixtures), and
// against the reference in float64.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/position_bias.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"
#include "tests/support/fixture_files.h"
#include "tests/support/model_runner.h"
#include "tests/support/random.h"
#include "tests/support/reference_encoder_decoder.h"

namespace ringserve {
namespace {

struct Subject {
  Subject(const std::string& name, DType dtype, DevicePolicy device)
      : folder(std::string(RINGSERVE_SOURCE_DIR) + "/tests/fixtures/" + name),
        backend(MakeTestBackend(device)),
        config(Get(LoadModelConfig(folder))),
        weights(Get(Weights::Load(folder, config, dtype, *backend, {}))) {
    const auto checkpoint = Get(Checkpoint::Open(folder));
    for (const FileTensor& tensor : checkpoint->tensors()) {
      tensors[std::string(tensor.name)] = Floats(tensor);
    }
  }

  // Of every row of `text`, fed in steps of `chunk`.
  std::vector<float> Logits(const std::vector<int32_t>& prompt,
                            const std::vector<int32_t>& text,
                            int32_t chunk,
                            int32_t block_size = 16,
                            TileOptions tiles = {}) {
    const SessionShape shape = {.buffer_size = 256, .block_size = block_size, .feedback_size = 256};
    const auto runner = Get(ModelRunner::Create(config, *weights, shape, 128, tiles, *backend));
    runner->SetPrompt(prompt);
    return Get(runner->Feed(text, chunk));
  }

  template <typename T>
  std::vector<T> Reference(const std::vector<int32_t>& prompt,
                           const std::vector<int32_t>& text,
                           bool rounds) {
    ReferenceEncoderDecoder<T> model(config, tensors, prompt, rounds);
    std::vector<T> logits;
    for (const int32_t id : text) {
      const std::vector<T> row = model.Push(id);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    return logits;
  }

  const std::string folder;
  std::unique_ptr<Backend> backend;
  ModelConfig config;
  std::unique_ptr<Weights> weights;
  ReferenceEncoderDecoder<double>::Tensors tensors;
};

std::vector<int32_t> RandomIds(const ModelConfig& config, size_t length, uint64_t seed) {
  Random random(seed);
  std::vector<int32_t> ids(length);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random.Int(0, config.vocab_size - 1));
  }
  return ids;
}

// Feeds Hugging Face's own continuation; wherever the choice differs, the two best logits must be
// closer than what rounding can move.
void CheckGreedy(Subject& subject,
                 const std::vector<int32_t>& prompt,
                 const std::vector<int32_t>& greedy,
                 double error) {
  std::vector<int32_t> text = {subject.config.decoder_start_token_id};
  text.insert(text.end(), greedy.begin(), greedy.end() - 1);
  const std::vector<float> logits = subject.Logits(prompt, text, 128);
  const auto vocab = static_cast<size_t>(subject.config.vocab_size);
  int differing = 0;
  for (size_t i = 0; i < greedy.size(); ++i) {
    const float* row = logits.data() + i * vocab;
    const auto best = static_cast<int32_t>(std::max_element(row, row + vocab) - row);
    if (best != greedy[i]) {
      ++differing;
      CHECK(row[best] - row[greedy[i]] <= 2 * error);
    }
  }
  CHECK(differing <= std::max(2, static_cast<int>(greedy.size()) / 16));
}

TEST_CASE("encoder-decoders compute what Hugging Face computes") {
  const std::string name =
      GENERATE("zoo/t5-v1_1", "families/t5-relu", "families/t5-untied", "families/mt5-head");
  const DType dtype = GENERATE(DType::kBf16, DType::kF32);
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  CAPTURE(name, DTypeName(dtype), device == DevicePolicy::kCuda);
  if (device == DevicePolicy::kCuda && dtype == DType::kF32) {
    return;  // refused there
  }
  Subject subject(name, dtype, device);
  const auto file = Get(SafetensorsFile::Open(subject.folder + "/reference.safetensors"));
  const auto reference = References(*file);
  const auto prompt = Ints(reference.at("input_ids"));
  const auto text = Ints(reference.at("decoder_input_ids"));
  const std::vector<float> told = Floats(reference.at("logits"));
  const auto truth = subject.Reference<double>(prompt, text, false);
  const double float_error = MaxError(subject.Reference<float>(prompt, text, false), truth);
  CHECK(MaxError(told, truth) <= 4 * float_error);
  // In float32 two orders of the same sums differ by as much as Hugging Face's may.
  const double plain = dtype == DType::kF32
                           ? 2 * float_error
                           : MaxError(subject.Reference<float>(prompt, text, true), truth);
  const double allowed = 2 * plain + OneUlp(MaxAbs(truth), DType::kF32);
  for (const int32_t chunk : {1, 7, 128}) {
    CAPTURE(chunk);
    const std::vector<float> got = subject.Logits(prompt, text, chunk);
    CHECK(MaxError(got, truth) <= allowed);
    CHECK(MaxError(got, told) <= allowed + 4 * float_error);
  }
  CheckGreedy(subject, prompt, Ints(reference.at("greedy")), allowed);
}

TEST_CASE("an encoded prompt has the same bits however blocks and tiles are cut") {
  const std::string name = GENERATE("zoo/t5-v1_1", "families/t5-untied", "families/mt5-head");
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  Subject subject(name, DType::kBf16, device);
  for (const size_t length : {1, 15, 16, 100}) {
    CAPTURE(name, length, device == DevicePolicy::kCuda);
    const auto prompt = RandomIds(subject.config, length, length);
    const auto text = RandomIds(subject.config, 40, 1);
    const auto truth = subject.Reference<double>(prompt, text, false);
    const std::vector<float> whole = subject.Logits(prompt, text, 128);
    CHECK(MaxError(whole, truth) <=
          2 * MaxError(subject.Reference<float>(prompt, text, true), truth) +
              OneUlp(MaxAbs(truth), DType::kF32));
    CHECK(SameBits(subject.Logits(prompt, text, 3), whole));
    CHECK(SameBits(subject.Logits(prompt, text, 9, 64), whole));
    for (const TileOrder order : {TileOrder::kQMajor, TileOrder::kKMajor}) {
      CHECK(SameBits(subject.Logits(prompt, text, 5, 8, {.tile_size = 8, .order = order}), whole));
    }
  }
}

TEST_CASE("distances fall into buckets as in T5") {
  const PositionBiasConfig config = {.num_buckets = 32, .max_distance = 128};
  const auto both = [&](int64_t distance) { return PositionBucket(config, true, distance); };
  const auto causal = [&](int64_t distance) { return PositionBucket(config, false, distance); };
  CHECK(both(0) == 0);
  CHECK(both(-7) == 7);
  CHECK(both(7) == 23);
  CHECK(both(-8) == 8);
  CHECK(both(-11) == 8);
  CHECK(both(-12) == 9);
  CHECK(both(-16) == 10);
  CHECK(both(-127) == 15);
  CHECK(both(-100000) == 15);
  CHECK(both(100000) == 31);
  CHECK(causal(5) == 0);
  CHECK(causal(-15) == 15);
  CHECK(causal(-16) == 16);
  CHECK(causal(-128) == 31);
  const std::vector<float> by_bucket = {0, 10, 1, 11, 2, 12, 3, 13};  // of two heads
  CHECK(BiasTable({.num_buckets = 4, .max_distance = 3}, true, by_bucket, 2) ==
        std::vector<float>{1, 1, 1, 0, 3, 3, 3, 11, 11, 11, 10, 13, 13, 13});
}

}  // namespace
}  // namespace ringserve
