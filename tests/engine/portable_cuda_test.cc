// The kernels for sm_80, forced on whatever GPU there is: the same bits as the best ones give, in
// whole models, row by row or in chunks.
#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/backend/backend_cuda.h"
#include "engine/model/weights.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/model_runner.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

template <typename T>
T Get(absl::StatusOr<T> result) {
  INFO(result.status().ToString());
  REQUIRE(result.ok());
  return *std::move(result);
}

std::vector<float> Logits(const std::string& folder,
                          CudaKernels kernels,
                          const SessionShape& shape,
                          const std::vector<int32_t>& ids,
                          int32_t chunk) {
  const auto backend = Get(MakeCudaBackend(1, kernels));
  REQUIRE((kernels == CudaKernels::kBest || backend->info().kernels == "sm_80"));
  const ModelConfig config = Get(LoadModelConfig(folder));
  const auto weights = Get(Weights::Load(folder, config, config.file_dtype, *backend, {}));
  const TileOptions tiles = {.split_size = backend->info().split_size};
  const auto runner = Get(ModelRunner::Create(config, *weights, shape, 128, tiles, *backend));
  if (config.has_encoder()) {
    runner->SetPrompt(std::span(ids).first(150));
  }
  return Get(runner->Feed(ids, chunk));
}

TEST_CASE("the kernels for sm_80 give the bits of the best ones") {
  if (!MakeCudaBackend(1).ok()) {
    WARN("no GPU: its kernels cannot be compared");
    return;
  }
  const std::string name = GENERATE("models/fairytale-5m",
                                    "tests/fixtures/zoo/llama-gqa",
                                    "tests/fixtures/zoo/mistral-window",
                                    "tests/fixtures/zoo/gemma3-text",
                                    "tests/fixtures/zoo/t5-v1_1",
                                    "tests/fixtures/families/t5-untied",
                                    "tests/fixtures/families/mixtral");
  const bool slides = GENERATE(false, true);
  const std::string folder = std::string(RINGSERVE_SOURCE_DIR) + "/" + name;
  const ModelConfig config = Get(LoadModelConfig(folder));
  if (slides && config.has_encoder()) {
    return;  // refused: an encoded prompt stays
  }
  const bool has_sinks = slides && config.local_layers.empty();
  CAPTURE(name, slides);
  const SessionShape shape = {.buffer_size = slides ? 64 : 512,
                              .block_size = 16,
                              .sink_size = has_sinks ? 4 : 0,
                              .feedback_size = slides ? 64 : 512,
                              .slides = slides};
  std::vector<int32_t> ids(300);
  Random random(3);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random.Int(0, config.vocab_size - 1));
  }
  const std::vector<float> best = Logits(folder, CudaKernels::kBest, shape, ids, 128);
  CHECK(SameBits(Logits(folder, CudaKernels::kBest, shape, ids, 1), best));
  for (const int32_t chunk : {1, 128}) {
    CAPTURE(chunk);
    CHECK(SameBits(Logits(folder, CudaKernels::kPortable, shape, ids, chunk), best));
  }
}

}  // namespace
}  // namespace ringserve
