#include "engine/model/weights.h"

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "engine/model/random_tensor.h"
#include "engine/model/tensor_names.h"
#include "tests/support/catch.h"
#include "tests/support/recording_backend.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

const std::string kSource = RINGSERVE_SOURCE_DIR;

ModelConfig Small(bool tied) {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.vocab_size = 11;
  config.hidden_dim = 6;
  config.ffn_dim = 10;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 4;
  config.max_positions = 64;
  config.tied_embeddings = tied;
  return config;
}

std::vector<TensorSpec> Specs(const ModelConfig& config) {
  const ModelTensors model = TensorsOfModel(config);
  std::vector<TensorSpec> specs = {model.embedding, model.final_norm.weight.front()};
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const LayerTensors tensors = TensorsOfLayer(config, layer);
    for (const TensorSpec* spec : tensors.all()) {
      specs.push_back(*spec);
    }
  }
  if (!config.tied_embeddings) {
    specs.push_back(model.lm_head);
  }
  return specs;
}

// An element that names its tensor and place and is exact in every dtype.
float Value(const std::string& name, int64_t index) {
  return static_cast<float>((std::hash<std::string>{}(name) + 7 * static_cast<size_t>(index)) %
                            256);
}

std::string Encode(float value, std::string_view dtype) {
  std::string bytes(dtype == "F32" ? 4 : 2, '\0');
  if (dtype == "F32") {
    std::memcpy(bytes.data(), &value, 4);
  } else if (dtype == "BF16") {
    const Bf16 rounded = ToBf16(value);
    std::memcpy(bytes.data(), &rounded, 2);
  } else {  // a float16 of a whole number in [0, 256)
    const auto whole = static_cast<uint32_t>(value);
    const int exponent = whole == 0 ? 0 : static_cast<int>(std::bit_width(whole)) - 1;
    const uint32_t mantissa = whole == 0 ? 0 : (whole << (10 - exponent)) & 0x3ff;
    const auto half = static_cast<uint16_t>(
        whole == 0 ? 0 : static_cast<uint32_t>(exponent + 15) << 10 | mantissa);
    std::memcpy(bytes.data(), &half, 2);
  }
  return bytes;
}

TestTensor Tensor(const TensorSpec& spec, const std::string& dtype) {
  TestTensor tensor = {spec.name, dtype, {spec.rows}, ""};
  if (spec.cols != 0) {
    tensor.shape.push_back(spec.cols);
  }
  for (int64_t i = 0; i < spec.rows * std::max<int64_t>(spec.cols, 1); ++i) {
    tensor.data += Encode(Value(spec.name, i), dtype);
  }
  return tensor;
}

// dtypes are dealt to the tensors in turn.
std::vector<TestTensor> Tensors(const ModelConfig& config, const std::vector<std::string>& dtypes) {
  std::vector<TestTensor> tensors;
  for (const TensorSpec& spec : Specs(config)) {
    tensors.push_back(Tensor(spec, dtypes[tensors.size() % dtypes.size()]));
  }
  // Four-byte elements first keeps every tensor aligned, as the format's writer does.
  std::stable_partition(
      tensors.begin(), tensors.end(), [](const TestTensor& t) { return t.dtype == "F32"; });
  return tensors;
}

void CheckRows(const Matrix& matrix, int64_t first_row, const TensorSpec& spec) {
  bool equal = matrix.cols == spec.cols && first_row + spec.rows <= matrix.rows;
  for (int64_t i = 0; equal && i < spec.rows * spec.cols; ++i) {
    equal = RecordingBackend::At(matrix, first_row + i / spec.cols, i % spec.cols) ==
            Value(spec.name, i);
  }
  INFO(spec.name);
  CHECK(equal);
}

void CheckNorm(const float* norm, const TensorSpec& spec) {
  INFO(spec.name);
  for (int64_t i = 0; i < spec.rows; ++i) {
    CHECK(norm[i] == Value(spec.name, i));
  }
}

void CheckTable(const EmbeddingTable& table, const ModelConfig& config) {
  const TensorSpec spec = TensorsOfModel(config).embedding;
  bool equal = true;
  for (int64_t i = 0; i < spec.rows * spec.cols; ++i) {
    equal = equal && RecordingBackend::Load({table.data, spec.rows, spec.cols, table.dtype}, i) ==
                         Value(spec.name, i);
  }
  CHECK(equal);
}

TEST_CASE("Every tensor lands where it belongs, whatever dtype it comes in") {
  const bool tied = GENERATE(false, true);
  const bool reads_host = GENERATE(false, true);
  const DType dtype = GENERATE(DType::kF32, DType::kBf16);
  const std::vector<std::string> dtypes = GENERATE(values<std::vector<std::string>>(
      {{"F32"}, {"F16"}, {"BF16"}, {"F16", "F32", "BF16"}, {"BF16", "F16", "F32"}}));
  const ModelConfig config = Small(tied);
  const TempDir dir;
  dir.Write("model.safetensors", SafetensorsBytes(Tensors(config, dtypes)));
  RecordingBackend backend(reads_host);
  std::vector<double> fractions;
  const auto loaded = Weights::Load(
      dir.path(), config, dtype, backend, [&](double fraction) { fractions.push_back(fraction); });
  INFO(loaded.status().ToString());
  REQUIRE(loaded.ok());
  const Weights& weights = **loaded;
  CHECK(weights.dtype() == dtype);
  for (int32_t index = 0; index < config.num_layers; ++index) {
    const LayerTensors tensors = TensorsOfLayer(config, index);
    const LayerWeights& layer = weights.layer(index);
    CheckNorm(layer.attn_norm.weight, tensors.attn_norm.weight.at(0));
    REQUIRE(layer.qkv.rows == 32);
    CheckRows(layer.qkv, 0, tensors.qkv.weight.at(0));
    CheckRows(layer.qkv, 16, tensors.qkv.weight.at(1));
    CheckRows(layer.qkv, 24, tensors.qkv.weight.at(2));
    CHECK(layer.qkv_bias == nullptr);
    CheckRows(layer.o_proj, 0, tensors.o.weight.at(0));
    CheckNorm(layer.ffn_norm.weight, tensors.ffn_norm.weight.at(0));
    REQUIRE(layer.gate_up.rows == 20);
    CheckRows(layer.gate_up, 0, tensors.gate_up.weight.at(0));
    CheckRows(layer.gate_up, 10, tensors.gate_up.weight.at(1));
    CheckRows(layer.down, 0, tensors.down.weight.at(0));
  }
  const ModelTensors model = TensorsOfModel(config);
  CheckNorm(weights.final_norm().weight, model.final_norm.weight.at(0));
  CheckTable(weights.embedding(), config);
  CheckRows(weights.lm_head(), 0, tied ? model.embedding : model.lm_head);
  CHECK(weights.lm_head().dtype == dtype);
  CHECK(backend.num_allocations() == 1);
  CHECK(backend.device_bytes() == Weights::SlabBytes(config, dtype, backend));
  REQUIRE_FALSE(fractions.empty());
  CHECK(std::is_sorted(fractions.begin(), fractions.end()));
  CHECK(fractions.front() > 0.0);
  CHECK(fractions.back() == 1.0);
}

std::string LoadError(const TempDir& dir, const ModelConfig& config) {
  RecordingBackend backend;
  const auto weights = Weights::Load(dir.path(), config, DType::kF32, backend, nullptr);
  CHECK(backend.num_allocations() == (weights.ok() ? 1 : 0));
  return weights.ok() ? "" : std::string(weights.status().message());
}

TEST_CASE("Tensors that do not fit the config are each named") {
  const ModelConfig config = Small(false);
  const TempDir dir;
  const std::string path = dir / "model.safetensors";
  const auto error = [&](auto change) {
    std::vector<TestTensor> tensors = Tensors(config, {"F32"});
    change(tensors);
    dir.Write("model.safetensors", SafetensorsBytes(tensors));
    return LoadError(dir, config);
  };
  const auto find = [](std::vector<TestTensor>& tensors, const std::string& name) {
    return std::find_if(
        tensors.begin(), tensors.end(), [&](const TestTensor& t) { return t.name == name; });
  };
  const std::string up = "model.layers.1.mlp.up_proj.weight";
  CHECK(error([](auto&) {}) == "");
  CHECK(error([&](auto& tensors) { tensors.erase(find(tensors, up)); }) ==
        dir.path() + ": tensor \"" + up + "\": missing; needed with shape [10, 6]");
  CHECK(error([&](auto& tensors) {
          find(tensors, up)->shape = {6, 10};
        }) == path + ": tensor \"" + up + "\": shape [6, 10] where config.json needs [10, 6]");
  CHECK(error([&](auto& tensors) { find(tensors, up)->shape = {60}; }) ==
        path + ": tensor \"" + up + "\": shape [60] where config.json needs [10, 6]");
  CHECK(error([&](auto& tensors) { find(tensors, up)->dtype = "I32"; }) ==
        path + ": tensor \"" + up + "\": dtype I32 is not supported, only: F32, F16, BF16");
  CHECK(error([&](auto& tensors) {
          tensors.push_back({"model.layers.0.self_attn.q_proj.bias", "F32", {1}, "1234"});
        }) == path +
                  ": tensor \"model.layers.0.self_attn.q_proj.bias\": not a tensor of "
                  "LlamaForCausalLM");
  CHECK(error([&](auto& tensors) { tensors.erase(find(tensors, "lm_head.weight")); }) ==
        dir.path() + ": tensor \"lm_head.weight\": missing; needed with shape [11, 6]");
  CHECK(error([&](auto& tensors) {
          tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {1}, "1234"});
        }) == "");
  CHECK(error([&](auto& tensors) {
          tensors.erase(find(tensors, up));
          tensors.erase(find(tensors, "model.norm.weight"));
        }) == dir.path() + ": tensor \"" + up +
                  "\": missing; needed with shape [10, 6] (the first of 2 problems)");
}

TEST_CASE("A tied model may carry a head that nobody reads") {
  const ModelConfig config = Small(true);
  const TempDir dir;
  std::vector<TestTensor> tensors = Tensors(config, {"F32"});
  tensors.push_back(Tensor(TensorsOfModel(config).lm_head, "F32"));
  dir.Write("model.safetensors", SafetensorsBytes(tensors));
  RecordingBackend backend;
  const auto weights = Weights::Load(dir.path(), config, DType::kF32, backend, nullptr);
  REQUIRE(weights.ok());
  CheckRows((*weights)->lm_head(), 0, TensorsOfModel(config).embedding);
}

TEST_CASE("The models at hand fit their configs") {
  for (const char* name : {"/models/fairytale-5m",
                           "/tests/fixtures/zoo/llama-gqa",
                           "/tests/fixtures/zoo/llama3-rope"}) {
    const auto config = LoadModelConfig(kSource + name);
    REQUIRE(config.ok());
    const auto checkpoint = Checkpoint::Open(kSource + name);
    REQUIRE(checkpoint.ok());
    CHECK(WeightProblems(*config, **checkpoint).empty());
    RecordingBackend backend;
    const auto weights =
        Weights::Load(kSource + name, *config, config->file_dtype, backend, nullptr);
    REQUIRE(weights.ok());
    CHECK(backend.device_bytes() == Weights::SlabBytes(*config, config->file_dtype, backend));
    // Used from the file, not from a copy.
    CHECK((*weights)->embedding().dtype == DType::kBf16);
    const FileTensor* table = (*checkpoint)->Find("model.embed_tokens.weight");
    CHECK(std::memcmp((*weights)->embedding().data, table->data.data(), table->data.size()) == 0);
  }
}

TEST_CASE("An encoder-decoder's head is the file's own, or the table") {
  const std::string families = kSource + "/tests/fixtures/families/";
  for (const auto& [name, tied] : {std::pair("t5-relu", true),
                                   std::pair("t5-untied", false),
                                   std::pair("mt5-head", false)}) {  // though its config says so
    CAPTURE(name);
    const auto config = LoadModelConfig(families + name);
    REQUIRE(config.ok());
    CHECK(config->tied_embeddings == tied);
    const auto checkpoint = Checkpoint::Open(families + name);
    REQUIRE(checkpoint.ok());
    CHECK(WeightProblems(*config, **checkpoint).empty());
    RecordingBackend backend;
    const auto weights =
        Weights::Load(families + name, *config, config->file_dtype, backend, nullptr);
    REQUIRE(weights.ok());
    CHECK(backend.device_bytes() == Weights::SlabBytes(*config, config->file_dtype, backend));
  }
}

TEST_CASE("A lying file ends in an error before anything is allocated") {
  const ModelConfig config = Small(false);
  const TempDir dir;
  const std::string sound = SafetensorsBytes(Tensors(config, {"F32"}));
  for (const size_t cut : {size_t{0}, size_t{7}, size_t{100}, sound.size() / 2, sound.size() - 1}) {
    dir.Write("model.safetensors", sound.substr(0, cut));
    CHECK(LoadError(dir, config).starts_with(dir / "model.safetensors: "));
  }
  dir.Write("model.safetensors", sound + "x");
  CHECK(LoadError(dir, config) ==
        (dir / "model.safetensors") + ": the last 1 bytes of data belong to no tensor");
}

TEST_CASE("Random weights depend on the seed alone and look normal") {
  const ModelConfig config = Small(GENERATE(false, true));
  const bool reads_host = GENERATE(false, true);
  RecordingBackend backend(reads_host);
  const auto a = *Weights::Random(config, DType::kBf16, 5, backend, nullptr);
  CHECK(backend.device_bytes() == Weights::SlabBytes(config, DType::kBf16, backend));
  const auto b = *Weights::Random(config, DType::kBf16, 5, backend, nullptr);
  const auto c = *Weights::Random(config, DType::kBf16, 6, backend, nullptr);
  const auto equal = [](const Matrix& x, const Matrix& y) {
    return std::memcmp(x.data, y.data, static_cast<size_t>(x.rows * x.cols * 2)) == 0;
  };
  CHECK(equal(a->layer(1).qkv, b->layer(1).qkv));
  CHECK_FALSE(equal(a->layer(1).qkv, c->layer(1).qkv));
  CHECK_FALSE(equal(a->layer(1).qkv, a->layer(0).qkv));
  CHECK(equal(a->lm_head(), b->lm_head()));
  CHECK(std::memcmp(a->embedding().data, b->embedding().data, 11 * 6 * 2) == 0);
  CHECK((std::memcmp(a->embedding().data, a->lm_head().data, 11 * 6 * 2) == 0) ==
        config.tied_embeddings);
  CHECK(a->final_norm().weight[5] == 1.0F);

  constexpr int64_t kCount = 3 << 20;  // several threads
  std::vector<float> values(kCount);
  const auto fill = [&](int64_t count) {
    FillRandomTensor("x",
                     count,
                     RandomKind::kNormal,
                     DType::kF32,
                     1,
                     reinterpret_cast<std::byte*>(values.data()));
  };
  fill(kCount);
  double sum = 0;
  double squares = 0;
  for (const float value : values) {
    sum += value;
    squares += double{value} * value;
  }
  CHECK(std::abs(sum / kCount) < 1e-4);
  CHECK(std::sqrt(squares / kCount) == Approx(0.02).epsilon(0.01));
  const std::vector<float> before(values.begin(), values.begin() + 100);
  fill(100);
  CHECK(std::equal(before.begin(), before.end(), values.begin()));  // however many threads
}

}  // namespace
}  // namespace ringserve
