// Any bytes as config.json, and after a zero byte as generation_config.json: an error, or a model
// that can be planned and whose numbers are finite.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/base/check.h"
#include "engine/memory_plan.h"
#include "engine/model/model_config.h"
#include "tests/support/recording_backend.h"

namespace ringserve {
namespace {

void CheckModelConfig(std::string_view text) {
  const size_t end = std::min(text.find('\0'), text.size());
  const auto model =
      ParseModelConfig(text.substr(0, end), text.substr(std::min(end + 1, text.size())));
  if (!model.ok()) {
    return;
  }
  for (const double frequency : RopeFrequencies(model->rope, model->head_dim)) {
    RS_CHECK(std::isfinite(frequency));
    RS_CHECK(frequency >= 0);  // 0: a pair that is not rotated
  }
  for (const int32_t id : model->eos_token_ids) {
    RS_CHECK(id >= 0 && id < model->vocab_size);
  }
  EngineConfig config;
  config.rings.block_size = 16;
  config.rings.buffer_size = 32;
  config.attention.tile_size = 16;
  config.scheduler = {.prefill_size = 16, .max_batch = 2, .max_queue = 1};
  const RecordingBackend backend;
  const auto plan =
      PlanMemory(config, *model, RunDType(DTypePolicy::kAuto, *model, backend.info()), backend);
  if (plan.ok()) {
    RS_CHECK(plan->weight_bytes > 0);
    RS_CHECK(plan->device_bytes() > plan->weight_bytes);
  }
}

}  // namespace
}  // namespace ringserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ringserve::CheckModelConfig({reinterpret_cast<const char*>(data), size});
  return 0;
}
