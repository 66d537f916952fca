// Any bytes as a model's JSON: an error, or a config that says the same when written and read
// again.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/check.h"
#include "engine/engine_config.h"
#include "engine/memory_plan.h"

namespace ringserve {
namespace {

void CheckEngineConfig(std::string_view text) {
  const auto config = ParseEngineConfig(text, "/base");
  if (!config.ok()) {
    return;
  }
  RS_CHECK(WorstCaseBlocks(MakeSessionShape(config->rings), INT64_MAX).global >= 2);
  const std::string written = EngineConfigJson(*config);
  const auto again = ParseEngineConfig(written, "/other");
  RS_CHECK(again.ok());
  RS_CHECK(EngineConfigJson(*again) == written);
}

}  // namespace
}  // namespace ringserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ringserve::CheckEngineConfig({reinterpret_cast<const char*>(data), size});
  return 0;
}
