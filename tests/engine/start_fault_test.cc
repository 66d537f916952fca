// Engines that cannot start, for want of memory or by their config, and what a start allocates.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/engine_run.h"
#include "tests/support/recording_backend.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

TEST_CASE("whichever allocation fails at the start is told, and nothing is kept") {
  FakeSink sink;
  int32_t num_failed = 0;
  for (int32_t count = 0; count < 50; ++count) {
    CAPTURE(count);
    Engine::Options options;
    options.config = FairytaleConfig();
    options.config.scheduler.max_batch = 1;
    options.config.memory.pinned_bytes = 8 << 20;
    options.make_backend = [count]() -> absl::StatusOr<std::unique_ptr<Backend>> {
      auto backend = std::make_unique<RecordingBackend>();
      backend->FailAllocation(count);
      return backend;
    };
    {
      const absl::StatusOr<std::unique_ptr<Engine>> engine =
          Engine::Create(std::move(options), sink);
      if (!engine.ok()) {
        ++num_failed;
        CHECK(engine.status().code() == absl::StatusCode::kResourceExhausted);
        CHECK(engine.status().message() == "memory: there is no more");
      } else {
        // Weights, two pools, the workspace: a start makes no more than these few, and none later.
        CHECK(num_failed >= 4);
        CHECK(RecordingBackend::num_live() == num_failed);
      }
    }
    CHECK(RecordingBackend::num_live() == 0);
    if (count > num_failed + 1) {
      break;  // no start gets so far
    }
  }
  CHECK(num_failed >= 4);
  CHECK(num_failed < 50);
}

TEST_CASE("what a draft model takes is planned, and is what is allocated") {
  EngineConfig config = FairytaleConfig();
  const absl::StatusOr<MemoryPlan> without = Engine::Plan(config);
  REQUIRE(without.ok());
  CHECK(without->draft_bytes() == 0);
  config.speculation.method = SpeculationMethod::kDraft;
  config.speculation.draft_path = config.model.path;
  // On one backend, or on one each.
  const bool serves_one_model = GENERATE(false, true);
  FakeSink sink;
  std::vector<RecordingBackend*> backends;
  Engine::Options options;
  options.config = config;
  options.make_backend = [&]() -> absl::StatusOr<std::unique_ptr<Backend>> {
    auto made = std::make_unique<RecordingBackend>(true, serves_one_model);
    backends.push_back(made.get());
    return made;
  };
  const absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(std::move(options), sink);
  INFO(engine.status().ToString());
  REQUIRE(engine.ok());
  const MemoryPlan& plan = (*engine)->memory_plan();
  CHECK(plan.draft_blocks == plan.device_blocks);  // of itself, for as many sequences
  CHECK(plan.draft_weight_bytes == plan.weight_bytes);
  CHECK(plan.draft_kv_bytes() == plan.device_kv_bytes());
  CHECK(backends.size() == (serves_one_model ? 2 : 1));
  int64_t device_bytes = 0;
  int64_t pinned_bytes = 0;
  for (const RecordingBackend* backend : backends) {
    device_bytes += backend->device_bytes();
    pinned_bytes += backend->pinned_bytes();
  }
  CHECK(device_bytes == plan.device_bytes());
  CHECK(pinned_bytes == plan.pinned_bytes());
  CHECK((plan.staging_bytes > 0) == serves_one_model);
  const std::string table = FormatMemoryPlan(plan);
  for (const char* part : {"draft weights", "draft KV pool", "draft workspace"}) {
    CHECK(table.find(part) != std::string::npos);
  }
}

TEST_CASE("with a host and a disk tier the plan is what is allocated, and no more is later") {
  const TempDir dir;
  EngineConfig config = FairytaleConfig();
  config.memory.pinned_bytes = 8 << 20;
  config.memory.disk_path = dir / "sessions";
  config.memory.disk_bytes = int64_t{1} << 30;
  FakeSink sink;
  RecordingBackend* backend = nullptr;
  Engine::Options options;
  options.config = config;
  options.make_backend = [&backend]() -> absl::StatusOr<std::unique_ptr<Backend>> {
    auto made = std::make_unique<RecordingBackend>();
    backend = made.get();
    return made;
  };
  const absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(std::move(options), sink);
  INFO(engine.status().ToString());
  REQUIRE(engine.ok());
  const MemoryPlan& plan = (*engine)->memory_plan();
  CHECK(plan.disk_buffer_bytes > 4 << 20);
  CHECK(backend->device_bytes() == plan.device_bytes());
  CHECK(backend->pinned_bytes() == plan.pinned_bytes());
  CHECK(plan.pinned_bytes() ==
        plan.pinned_kv_bytes() + plan.staging_bytes + plan.disk_buffer_bytes);
}

std::string RefusalOf(const EngineConfig& config) {
  const absl::StatusOr<MemoryPlan> plan = Engine::Plan(config);
  REQUIRE_FALSE(plan.ok());
  CHECK(plan.status().code() == absl::StatusCode::kInvalidArgument);
  return std::string(plan.status().message());
}

TEST_CASE("a model that cannot draft is refused with the reason") {
  const std::string zoo = std::string(RINGSERVE_SOURCE_DIR) + "/tests/fixtures/zoo/";
  EngineConfig config = FairytaleConfig();
  config.speculation.method = SpeculationMethod::kDraft;
  config.speculation.draft_path = "/nowhere";
  CHECK(RefusalOf(config).starts_with("speculation.draft_path: /nowhere"));
  config.speculation.draft_path = zoo + "llama-gqa";
  CHECK(RefusalOf(config).starts_with("speculation.draft_path: its vocabulary has "));
  // The same model with another tokenizer, and with none.
  const TempDir dir;
  const std::string other = dir / "other";
  std::filesystem::create_directory(other);
  for (const char* name : {"config.json", "generation_config.json"}) {
    std::filesystem::copy(config.model.path + "/" + name, other + "/" + name);
  }
  config.speculation.draft_path = other;
  CHECK(RefusalOf(config).starts_with("speculation.draft_path: " + other + "/tokenizer.json"));
  dir.Write("other/tokenizer.json", "{}");
  CHECK(RefusalOf(config) ==
        "speculation.draft_path: " + other + "/tokenizer.json is not that of the model");
  config.speculation.draft_path = config.model.path;
  config.speculation.max_draft = 64;
  config.rings.buffer_size = 64;
  config.rings.block_size = 32;
  config.attention.tile_size = 32;
  CHECK(RefusalOf(config) ==
        "speculation.max_draft: 64 is more than 32, half of the draft model's context");
}

}  // namespace
}  // namespace ringserve
