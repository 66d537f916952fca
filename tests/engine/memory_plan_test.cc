#include "engine/memory_plan.h"

#include <memory>
#include <string>

#include "engine/model/weights.h"
#include "engine/session.h"
#include "tests/support/catch.h"
#include "tests/support/recording_backend.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

const std::string kSource = RINGSERVE_SOURCE_DIR;

ModelConfig SmallModel() {
  ModelConfig model;
  model.architecture = "LlamaForCausalLM";
  model.vocab_size = 300;
  model.hidden_dim = 96;
  model.ffn_dim = 200;
  model.num_layers = 3;
  model.num_heads = 6;
  model.num_kv_heads = 2;
  model.head_dim = 16;
  model.max_positions = 4096;
  model.rms_norm_eps = 1e-5F;
  return model;
}

// Two layers of three see a window.
ModelConfig LocalModel() {
  ModelConfig model = SmallModel();
  model.window = 40;
  model.local_layers = {true, true, false};
  return model;
}

EngineConfig SmallConfig() {
  EngineConfig config;
  config.model = {.name = "m", .path = "p"};
  config.rings.buffer_size = 256;
  config.rings.block_size = 32;
  config.attention.tile_size = 16;
  config.scheduler = {.prefill_size = 40, .max_batch = 5, .max_queue = 10};
  return config;
}

absl::StatusOr<MemoryPlan> Plan(const EngineConfig& config, const ModelConfig& model) {
  const RecordingBackend backend;
  return PlanMemory(config, model, DType::kBf16, backend);
}

std::string Error(const EngineConfig& config, const ModelConfig& model) {
  const auto plan = Plan(config, model);
  REQUIRE_FALSE(plan.ok());
  CHECK(plan.status().code() == absl::StatusCode::kInvalidArgument);
  return std::string(plan.status().message());
}

TEST_CASE("The plan is the sum of what is then allocated") {
  ModelConfig model = SmallModel();
  model.tied_embeddings = GENERATE(false, true);
  EngineConfig config = SmallConfig();
  const DType dtype = GENERATE(DType::kF32, DType::kBf16);
  if (GENERATE(false, true)) {
    config.rings.overflow = OverflowPolicy::kSlide;
    config.rings.sink_size = 4;
  }
  if (GENERATE(false, true)) {
    config.rings.sink_size = 0;
    model = LocalModel();
  }
  config.attention.tile_order =
      GENERATE(TileOrderPolicy::kAuto, TileOrderPolicy::kQMajor, TileOrderPolicy::kKMajor);
  RecordingBackend backend(GENERATE(false, true));
  const auto plan = PlanMemory(config, model, dtype, backend);
  REQUIRE(plan.ok());
  CHECK(backend.device_bytes() == 0);

  const auto weights = Weights::Random(model, dtype, 1, backend, nullptr);
  REQUIRE(weights.ok());
  CHECK(backend.device_bytes() == plan->weight_bytes);
  const auto loop =
      Model::Create(model, **weights, MakeStepLimits(config, model, backend.info()), backend);
  REQUIRE(loop.ok());
  CHECK(backend.device_bytes() == plan->weight_bytes + plan->workspace_bytes);
  const auto pool =
      backend.Allocate(static_cast<size_t>(plan->device_kv_bytes()), MemoryKind::kDevice);
  REQUIRE(pool.ok());
  CHECK(backend.device_bytes() == plan->device_bytes());
  CHECK(backend.pinned_bytes() == plan->pinned_kv_bytes());
}

TEST_CASE("A disk tier's buffers hold three pieces of sessions") {
  EngineConfig config = SmallConfig();
  CHECK(Plan(config, SmallModel())->disk_buffer_bytes == 0);
  config.memory.disk_path = "/sessions";
  config.memory.disk_bytes = int64_t{1} << 30;
  const MemoryPlan plan = *Plan(config, SmallModel());
  const int64_t stride = plan.kv.block_bytes() + 8;
  CHECK(plan.disk_buffer_bytes == 3 * ((4 << 20) / plan.kv.block_bytes()) * stride);
  CHECK(plan.pinned_bytes() == plan.disk_buffer_bytes);
  CHECK(FormatMemoryPlan(plan).find("disk buffers") != std::string::npos);
  ModelConfig large = SmallModel();  // a block is more than a piece
  large.num_layers = 700;
  const MemoryPlan wide = *Plan(config, large);
  CHECK(wide.disk_buffer_bytes == 3 * (wide.kv.block_bytes() + 8));
}

TEST_CASE("The plan of an encoder-decoder is what is then allocated") {
  const std::string folder = kSource + "/tests/fixtures/families/" +
                             GENERATE(as<std::string>{}, "t5-relu", "t5-untied", "mt5-head");
  const auto model = LoadModelConfig(folder);
  REQUIRE(model.ok());
  EngineConfig config = SmallConfig();
  config.attention.head_tile_size = 0;
  config.scheduler.prefill_size = GENERATE(1, 500);
  RecordingBackend backend(GENERATE(false, true));
  const auto plan = PlanMemory(config, *model, DType::kBf16, backend);
  REQUIRE(plan.ok());
  const auto weights = Weights::Load(folder, *model, DType::kBf16, backend, nullptr);
  REQUIRE(weights.ok());
  const StepLimits limits = MakeStepLimits(config, *model, backend.info());
  CHECK(limits.max_encoder_rows % config.rings.block_size == 0);
  CHECK(limits.max_encoder_rows >= config.rings.buffer_size - config.rings.block_size);
  REQUIRE(Model::Create(*model, **weights, limits, backend).ok());
  CHECK(backend.device_bytes() == plan->weight_bytes + plan->workspace_bytes);
}

TEST_CASE("Blocks are arithmetic on the rings") {
  EngineConfig config = SmallConfig();
  MemoryPlan plan = *Plan(config, SmallModel());
  CHECK(plan.kv.block_bytes() == 32 * 16 * 2 * 2 * 2 * 3);
  CHECK(plan.blocks_per_session == 8);
  CHECK(plan.device_blocks == 40);
  CHECK(plan.max_sessions == 5);
  CHECK(plan.pinned_blocks == 0);
  config.rings.overflow = OverflowPolicy::kSlide;
  CHECK(Plan(config, SmallModel())->blocks_per_session == 8);
  config.rings.sink_size = 4;
  plan = *Plan(config, SmallModel());
  CHECK(plan.blocks_per_session == 9);
  CHECK(plan.device_blocks == 45);
  config.memory.device_bytes = 20 * plan.kv.block_bytes() - 1;
  plan = *Plan(config, SmallModel());
  CHECK(plan.device_blocks == 19);
  CHECK(plan.max_sessions == 2);
  config.memory.device_bytes = 9 * plan.kv.block_bytes();
  CHECK(Plan(config, SmallModel())->max_sessions == 1);
}

TEST_CASE("No session ever holds more blocks than the plan allows it") {
  EngineConfig config = SmallConfig();
  if (GENERATE(false, true)) {
    config.rings.overflow = OverflowPolicy::kSlide;
    config.rings.sink_size = GENERATE(0, 4);
  }
  const int64_t most = BlocksPerSession(config, SmallModel()).global;
  BlockPool pool(static_cast<int32_t>(most));
  Session session(MakeSessionShape(config.rings), std::numeric_limits<int64_t>::max(), pool);
  std::vector<int32_t> token_ids(40, 1);
  int64_t fewest_free = most;
  for (int step = 0; step < 200; ++step) {
    const int64_t rows = std::min<int64_t>(session.MaxRows(), 1 + step * 7 % 40);
    if (rows == 0) {
      break;
    }
    session.Append(std::span<const int32_t>(token_ids).first(static_cast<size_t>(rows)),
                   step % 3 == 0 ? Session::Phase::kDecode : Session::Phase::kPrefill);
    fewest_free = std::min<int64_t>(fewest_free, pool.num_free());
  }
  CHECK(session.position() >= config.rings.buffer_size);
  CHECK(fewest_free == 0);
}

TEST_CASE("What does not fit is named by its key") {
  EngineConfig config = SmallConfig();
  config.rings.buffer_size = 8192;
  CHECK(Error(config, SmallModel()) ==
        "rings.buffer_size: 8192 exceeds the model's max_position_embeddings 4096");
  config.attention.head_tile_size = 4;
  Problems problems;
  CheckFit(config, SmallModel(), problems);
  REQUIRE(problems.list().size() == 2);
  CHECK(problems.list()[1] ==
        "attention.head_tile_size: 4 exceeds the 3 query heads that share a KV head");
  config = SmallConfig();
  config.memory.device_bytes = 12288 * 8 - 1;
  CHECK(Error(config, SmallModel()) ==
        "memory.device_bytes: 98303 hold 7 blocks of 12288 bytes; one session of "
        "rings.buffer_size 256 needs 8 blocks, 98304 bytes");
  config.memory.device_bytes = int64_t{1} << 50;
  CHECK(Error(config, SmallModel()) ==
        "memory.device_bytes: 91625968981 blocks of 32 tokens are more than 2147483647; take a "
        "larger rings.block_size");
  config = SmallConfig();
  ModelConfig large = SmallModel();
  large.max_positions = 1 << 30;
  config.rings.buffer_size = 1 << 30;
  config.scheduler.max_batch = 4096;
  CHECK(Error(config, large) ==
        "scheduler.max_batch: 137438953472 blocks of 32 tokens are more than 2147483647; take a "
        "larger rings.block_size");
}

TEST_CASE("The largest values of every key stay within 63 bits") {
  ModelConfig model;
  model.vocab_size = 1 << 24;
  model.hidden_dim = 1 << 16;
  model.ffn_dim = 1 << 20;
  model.num_layers = 1024;
  model.num_heads = 1024;
  model.num_kv_heads = 1024;
  model.head_dim = 512;
  model.max_positions = 1 << 30;
  EngineConfig config = SmallConfig();
  config.rings = {.buffer_size = 1 << 30,
                  .block_size = 256,
                  .sink_size = 256,
                  .overflow = OverflowPolicy::kSlide};
  config.attention.tile_order = TileOrderPolicy::kKMajor;
  config.scheduler = {.prefill_size = 65536, .max_batch = 256, .max_queue = 1};
  const RecordingBackend backend(false);
  CHECK(PlanMemory(config, model, DType::kF32, backend).status().message() ==
        "rings.buffer_size: 1073741824 and scheduler.max_batch: 256 make a plan of more than "
        "1152921504606846976 bytes");
  config.scheduler.max_batch = 4096;
  CHECK_FALSE(PlanMemory(config, model, DType::kF32, backend).ok());
  config.memory.device_bytes = int64_t{1} << 50;
  CHECK_FALSE(PlanMemory(config, model, DType::kF32, backend).ok());
  config.rings.buffer_size = 512;
  const auto plan = PlanMemory(config, model, DType::kF32, backend);
  REQUIRE(plan.ok());
  CHECK(plan->weight_bytes > 0);
  CHECK(plan->workspace_bytes > 0);
  CHECK(plan->device_bytes() > plan->device_kv_bytes());
}

TEST_CASE("The dtype follows the policy, and the file where it may") {
  ModelConfig model = SmallModel();
  BackendInfo backend;
  const auto with = [&](DType file, DTypePolicy policy) {
    model.file_dtype = file;
    return RunDType(policy, model, backend);
  };
  CHECK(with(DType::kBf16, DTypePolicy::kAuto) == DType::kBf16);
  CHECK(with(DType::kF16, DTypePolicy::kAuto) == DType::kF32);
  CHECK(with(DType::kF32, DTypePolicy::kAuto) == DType::kF32);
  CHECK(with(DType::kF32, DTypePolicy::kBf16) == DType::kBf16);
  CHECK(with(DType::kBf16, DTypePolicy::kF32) == DType::kF32);
  CHECK(with(DType::kBf16, DTypePolicy::kF16) == DType::kF16);
  backend.runs_f16 = true;
  CHECK(with(DType::kF16, DTypePolicy::kAuto) == DType::kF16);
  CHECK(with(DType::kF32, DTypePolicy::kAuto) == DType::kF32);
}

TEST_CASE("The plan is printed as a table") {
  MemoryPlan plan;
  plan.kv = {.block_size = 64, .num_layers = 6, .num_kv_heads = 2, .head_dim = 64};
  plan.weight_bytes = 10961920;
  plan.device_blocks = 1024;
  plan.workspace_bytes = 1000;
  plan.blocks_per_session = 16;
  plan.max_sessions = 64;
  CHECK(FormatMemoryPlan(plan) ==
        "memory                      bytes         size\n"
        "weights                  10961920     10.5 MiB  bf16\n"
        "KV pool                 201326592    192.0 MiB  1024 blocks of 64 tokens, 196608 bytes "
        "each\n"
        "workspace                    1000       1000 B\n"
        "device total            212289512    202.5 MiB\n"
        "64 sessions at once, each of at most 16 blocks, 3.0 MiB\n");
}

TEST_CASE("Local layers beside global ones have blocks of their own size") {
  EngineConfig config = SmallConfig();
  MemoryPlan plan = *Plan(config, LocalModel());
  CHECK(plan.kv.block_bytes() == 32 * 16 * 2 * 2 * 2 * 1);
  CHECK(plan.local_kv.block_bytes() == 32 * 16 * 2 * 2 * 2 * 2);
  CHECK(plan.blocks_per_session == 8);
  // 79 keys and 40 rows in blocks of 32, wherever they begin, and as much for what a turn keeps.
  CHECK(plan.local_blocks_per_session == 2 * 5);
  CHECK(plan.device_blocks == 40);
  CHECK(plan.local_blocks.num_device == 50);
  CHECK(plan.max_sessions == 5);
  config.memory.device_bytes = plan.device_kv_bytes();
  config.memory.pinned_bytes = 3 * plan.session_bytes() + 100;
  const MemoryPlan given = *Plan(config, LocalModel());
  CHECK(given.device_blocks == 40);
  CHECK(given.local_blocks.num_device == 50);
  CHECK(given.pinned_blocks == 24);
  CHECK(given.local_blocks.num_host == 30);
  const std::string table = FormatMemoryPlan(given);
  CHECK(table.find("local KV pool") != std::string::npos);
  CHECK(table.find("host local KV") != std::string::npos);
  CHECK(table.find(
            "5 sessions at once, each of at most 8 blocks and 10 of local layers, 112.0 KiB") !=
        std::string::npos);
  for (int64_t bytes = plan.session_bytes(); bytes < 3 * plan.session_bytes(); bytes += 999) {
    config.memory.device_bytes = bytes;
    const MemoryPlan some = *Plan(config, LocalModel());
    CHECK(some.device_kv_bytes() <= bytes);
    CHECK(some.max_sessions == bytes / plan.session_bytes());
  }
  config.memory.device_bytes = plan.session_bytes() - 1;
  CHECK(Error(config, LocalModel()) ==
        "memory.device_bytes: 114687 are less than one session of rings.buffer_size 256 needs: 8 "
        "blocks of 4096 bytes and 10 of 8192 of local layers, 114688 bytes");
  config.memory = {};
  config.sessions.share_prefixes = true;
  CHECK(Error(config, LocalModel()) ==
        "sessions.share_prefixes: what local layers see of a prefix is not kept; say false for a "
        "model of local and global layers");
  config.sessions.share_prefixes = false;
  // What a longer buffer adds is of global layers alone.
  config.rings.buffer_size = 2048;
  CHECK(Plan(config, LocalModel())->local_blocks_per_session == 10);
  CHECK(Plan(config, LocalModel())->blocks_per_session == 64);
}

// 62 layers, of which 52 see 1024 tokens: Gemma 3 27B at 131,072 tokens.
TEST_CASE("A session of a large model of local layers takes a fifth of what it would in one ring") {
  ModelConfig model = SmallModel();
  model.num_layers = 62;
  model.num_heads = 32;
  model.num_kv_heads = 16;
  model.head_dim = 128;
  model.max_positions = 131072;
  model.window = 1024;
  model.local_layers.resize(62);
  for (size_t layer = 0; layer < 62; ++layer) {
    model.local_layers[layer] = layer % 6 != 5;
  }
  EngineConfig config = SmallConfig();
  config.rings = {.buffer_size = 131072, .block_size = 64};
  config.scheduler.prefill_size = 512;
  const MemoryPlan plan = *Plan(config, model);
  CHECK(plan.session_bytes() ==
        2048 * plan.kv.block_bytes() + 2 * 41 * plan.local_kv.block_bytes());
  constexpr int64_t kBefore = int64_t{131072} * 62 * 2 * 16 * 128 * 2;
  CHECK(kBefore / plan.session_bytes() == 5);
}

TEST_CASE("A bare folder gets a config that fits its model") {
  for (const char* name : {"/models/fairytale-5m", "/tests/fixtures/zoo/llama-gqa"}) {
    const std::string dir = kSource + name;
    const auto config = DefaultEngineConfig(dir);
    REQUIRE(config.ok());
    const ModelConfig model = *LoadModelConfig(dir);
    CHECK(config->rings.buffer_size == model.max_positions);
    CHECK(config->model.path == dir);
    const RecordingBackend backend;
    const auto plan = PlanMemory(*config, model, model.file_dtype, backend);
    REQUIRE(plan.ok());
    CHECK(plan->max_sessions == 32);
    // What it says is what a file may say.
    const auto again = ParseEngineConfig(EngineConfigJson(*config), "");
    INFO(again.status().ToString());
    CHECK(again.ok());
  }
  CHECK(DefaultEngineConfig(kSource + "/models/fairytale-5m/")->model.name == "fairytale-5m");
  CHECK(DefaultEngineConfig("/none").status().message() == "/none/config.json: no such file");
}

constexpr char kConfigOf[] = R"({
    "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "vocab_size": 128256,
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
    "max_position_embeddings": )";

TEST_CASE("The default config of any model stays sane") {
  const TempDir dir;
  const auto with = [&](int64_t max_positions) {
    dir.Write("config.json", kConfigOf + std::to_string(max_positions) + "}");
    return DefaultEngineConfig(dir.path());
  };
  // Llama 3 8B: 1 GiB a session, so a pool of 4.
  CHECK(with(131072)->rings.buffer_size == 8192);
  CHECK(with(131072)->memory.device_bytes == int64_t{4} << 30);
  CHECK(with(1000)->rings.buffer_size == 960);
  CHECK(with(100)->rings.block_size == 32);
  CHECK(with(100)->rings.buffer_size == 96);
  CHECK(with(17)->rings.block_size == 8);
  CHECK(with(17)->attention.tile_size == 8);
  CHECK(with(15).status().message() ==
        dir.path() + ": max_position_embeddings: 15 tokens are less than two blocks of 8");
}

}  // namespace
}  // namespace ringserve
