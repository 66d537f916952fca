// Mixtures of experts against Hugging Face and the reference in float64, where a router's two
// choices may be as good as equal (tests/support/routed_reference.h).
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/fixture_files.h"
#include "tests/support/model_runner.h"
#include "tests/support/routed_reference.h"

namespace ringserve {
namespace {

TEST_CASE("a mixture of experts meets the truth of one routing that its arithmetic may take") {
  const std::string name =
      GENERATE("zoo/qwen3-moe", "families/qwen3-moe-mixed", "families/mixtral", "families/gpt-oss");
  const DType dtype = GENERATE(DType::kBf16, DType::kF32);
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  CAPTURE(name, DTypeName(dtype), device == DevicePolicy::kCuda);
  if (device == DevicePolicy::kCuda && dtype == DType::kF32) {
    return;  // refused there
  }
  const std::string folder = std::string(RINGSERVE_SOURCE_DIR) + "/tests/fixtures/" + name;
  const auto backend = MakeTestBackend(device);
  const ModelConfig config = Get(LoadModelConfig(folder));
  const auto weights = Get(Weights::Load(folder, config, dtype, *backend, {}));
  ReferenceModel<double>::Tensors tensors;
  const auto checkpoint = Get(Checkpoint::Open(folder));
  for (const FileTensor& tensor : checkpoint->tensors()) {
    tensors[std::string(tensor.name)] = Floats(tensor);
  }
  const auto file = Get(SafetensorsFile::Open(folder + "/reference.safetensors"));
  const auto reference = References(*file);
  const std::vector<int32_t> ids = Ints(reference.at("input_ids"));
  const SessionShape shape = {.buffer_size = 512, .block_size = 64, .feedback_size = 512};
  const ReferenceContext context = {.length = std::min(shape.buffer_size, config.max_positions)};

  // The zoo's models were cast to bf16 in memory, their rotary frequencies with them.
  const RoutedReference::Result told =
      RoutedReference::Judge(config,
                             tensors,
                             ids,
                             Floats(reference.at("logits")),
                             context,
                             {.frequencies = name.starts_with("zoo/")});
  CHECK(told.error <= 4 * told.plain_error);
  std::vector<float> first;
  for (const int32_t chunk : {1, 7, 128}) {
    CAPTURE(chunk);
    const std::vector<float> got =
        Get(Get(ModelRunner::Create(config, *weights, shape, 128, {}, *backend))->Feed(ids, chunk));
    if (!first.empty()) {
      CHECK(SameBits(got, first));
      continue;
    }
    first = got;
    const RoutedReference::Result result = RoutedReference::Judge(
        config, tensors, ids, got, context, {.activations = dtype == DType::kBf16});
    CAPTURE(
        result.error, result.plain_error, result.router_error, result.num_open, result.num_parted);
    CHECK(result.error <=
          2 * result.plain_error + OneUlp(MaxAbs(Floats(reference.at("logits"))), DType::kF32));
    // A rule that leaves most choices open would say nothing.
    CHECK(result.num_open <= static_cast<int>(ids.size()) / 2);
    CHECK(result.num_parted <= result.num_open);
  }
}

TEST_CASE("a wrong expert is told from one that is as good as equal") {
  const std::string folder =
      std::string(RINGSERVE_SOURCE_DIR) + "/tests/fixtures/families/qwen3-moe-mixed";
  const ModelConfig config = Get(LoadModelConfig(folder));
  ReferenceModel<double>::Tensors tensors;
  const auto checkpoint = Get(Checkpoint::Open(folder));
  for (const FileTensor& tensor : checkpoint->tensors()) {
    tensors[std::string(tensor.name)] = Floats(tensor);
  }
  // The truth, but for the 10th token's: its best expert gives way to the worst.
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 12; ++i) {
    ids.push_back(3 + 7 * i);
  }
  ReferenceModel<double> model(config, tensors, {}, {});
  std::vector<float> got;
  for (size_t i = 0; i < ids.size(); ++i) {
    ReferenceRoute route;
    if (i == 9) {
      ReferenceModel<double>(model).Push(ids[i], route);
      const std::vector<double>& logits = route.logits[1];
      const auto worst = std::min_element(logits.begin(), logits.end()) - logits.begin();
      route.experts[1].front() = static_cast<int32_t>(worst);
    }
    for (const double logit : model.Push(ids[i], route)) {
      got.push_back(static_cast<float>(logit));
    }
  }
  const RoutedReference::Result result =
      RoutedReference::Judge(config, tensors, ids, got, {}, {.activations = true});
  CAPTURE(result.error, result.plain_error);
  CHECK(result.error > 4 * result.plain_error);
}

}  // namespace
}  // namespace ringserve
