#include <algorithm>
#include <unordered_set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "engine/model/tensor_names.h"
#include "engine/model/tensor_source.h"
#include "engine/model/weights.h"

namespace ringserve {
namespace {

std::string Where(const FileTensor& tensor) {
  return fmt::format("{}: tensor \"{}\"", tensor.file, tensor.name);
}

void CheckTensor(const TensorSpec& spec,
                 const Checkpoint& checkpoint,
                 bool required,
                 std::vector<std::string>& problems) {
  const FileTensor* tensor = FindTensor(checkpoint, spec.name);
  const std::vector<int64_t> shape = FileShape(spec);
  if (tensor == nullptr) {
    if (required) {
      problems.push_back(fmt::format("{}: tensor \"{}\": missing; needed with shape [{}]",
                                     checkpoint.dir(),
                                     spec.name,
                                     fmt::join(shape, ", ")));
    }
    return;
  }
  if (!std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end())) {
    problems.push_back(fmt::format("{}: shape [{}] where config.json needs [{}]",
                                   Where(*tensor),
                                   fmt::join(tensor->shape, ", "),
                                   fmt::join(shape, ", ")));
  }
  if (!ParseFileDType(tensor->dtype).has_value()) {
    problems.push_back(fmt::format(
        "{}: dtype {} is not supported, only: F32, F16, BF16", Where(*tensor), tensor->dtype));
  }
}

}  // namespace

std::vector<std::string> WeightProblems(const ModelConfig& config, const Checkpoint& checkpoint) {
  std::vector<std::string> problems;
  std::unordered_set<std::string> known;
  const auto check = [&](const TensorSpec& spec, bool required) {
    // Slices of one tensor are one tensor.
    if (known.insert(spec.name).second) {
      CheckTensor(spec, checkpoint, required, problems);
    }
    const FileTensor* tensor = FindTensor(checkpoint, spec.name);
    if (tensor != nullptr) {
      known.insert(std::string(tensor->name));
    }
  };
  const auto check_all = [&](const TensorParts& parts) {
    for (const TensorSpec& spec : parts) {
      check(spec, true);
    }
  };
  const ModelTensors model = TensorsOfModel(config);
  check(model.embedding, true);
  check_all(model.positions);
  check_all(model.position_bias);
  check_all(model.encoder_position_bias);
  check_all(model.encoder_norm.weight);
  for (int32_t layer = 0; layer < config.num_all_layers(); ++layer) {
    const LayerTensors tensors = TensorsOfLayer(config, layer);
    for (const TensorSpec* spec : tensors.all()) {
      check(*spec, true);
    }
  }
  check_all(model.final_norm.weight);
  check_all(model.final_norm.bias);
  check(model.lm_head, !config.tied_embeddings);
  for (const FileTensor& tensor : checkpoint.tensors()) {
    if (!known.contains(std::string(tensor.name)) && !IsIgnoredTensor(tensor.name)) {
      problems.push_back(fmt::format("{}: not a tensor of {}", Where(tensor), config.architecture));
    }
  }
  return problems;
}

}  // namespace ringserve
