#include "engine/memory_plan.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "engine/disk_tier.h"
#include "engine/model/weights.h"
#include "engine/session.h"

namespace ringserve {
namespace {

constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxPlanBytes = int64_t{1} << 60;
// Prompt logprobs take this many rows of logits at a time, however small the batch is.
constexpr int32_t kMinLogitsRows = 64;
constexpr int64_t kMaxEncoderRows = 1 << 20;

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(message);
}

// 10.5 MiB; bytes below 1 KiB.
std::string Readable(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < std::size(kUnits)) {
    value /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

// What a text that outgrows its rings would need, and the model cannot do.
void CheckSlide(const EngineConfig& config, const ModelConfig& model, Problems& problems) {
  if (config.rings.sink_size > 0 && !model.local_layers.empty()) {
    problems.Add("rings.sink_size: sinks do not go with the model's own attention windows");
  }
  if (config.rings.overflow != OverflowPolicy::kSlide) {
    return;
  }
  if (model.has_encoder()) {
    problems.Add("rings.overflow: an encoded prompt stays as long as the text behind it");
  }
  if (model.learned_positions) {
    problems.Add(
        fmt::format("rings.overflow: the model has {} positions, a text that slides has no end",
                    model.max_positions));
  }
  if (model.rope.kind == RopeConfig::Kind::kDynamic) {
    problems.Add("rings.overflow: rope_type \"dynamic\" is served up to max_position_embeddings");
  }
}

// As many whole blocks as memory.pinned_bytes hold. One is kept free so that blocks can change
// places.
absl::StatusOr<int64_t> PinnedBlocks(const EngineConfig& config,
                                     const KvLayout& kv,
                                     int64_t device_blocks) {
  const int64_t wanted = config.memory.pinned_bytes;
  const int64_t blocks = wanted / kv.block_bytes();
  if (wanted != 0 && blocks < 2) {
    return Invalid(
        fmt::format("memory.pinned_bytes: {} hold {} blocks of {} bytes; at least 2 are needed",
                    wanted,
                    blocks,
                    kv.block_bytes()));
  }
  if (blocks > kMaxBlocks - device_blocks) {
    return Invalid(
        fmt::format("memory.pinned_bytes: {} blocks of {} tokens are too many beside "
                    "the {} of the device; take a larger rings.block_size",
                    blocks,
                    kv.block_size,
                    device_blocks));
  }
  return blocks;
}

absl::StatusOr<int64_t> DeviceBlocks(const EngineConfig& config,
                                     const KvLayout& kv,
                                     int64_t blocks_per_session) {
  const int64_t wanted = config.memory.device_bytes;
  const int64_t blocks =
      wanted == 0 ? config.scheduler.max_batch * blocks_per_session : wanted / kv.block_bytes();
  if (blocks < blocks_per_session) {
    return Invalid(
        fmt::format("memory.device_bytes: {} hold {} blocks of {} bytes; one session of "
                    "rings.buffer_size {} needs {} blocks, {} bytes",
                    wanted,
                    blocks,
                    kv.block_bytes(),
                    config.rings.buffer_size,
                    blocks_per_session,
                    blocks_per_session * kv.block_bytes()));
  }
  if (blocks > kMaxBlocks) {
    return Invalid(
        fmt::format("{}: {} blocks of {} tokens are more than {}; take a larger "
                    "rings.block_size",
                    wanted == 0 ? "scheduler.max_batch" : "memory.device_bytes",
                    blocks,
                    kv.block_size,
                    kMaxBlocks));
  }
  return blocks;
}

}  // namespace

DType RunDType(DTypePolicy policy, const ModelConfig& model, const BackendInfo& backend) {
  switch (policy) {
    case DTypePolicy::kBf16:
      return DType::kBf16;
    case DTypePolicy::kF16:
      return DType::kF16;
    case DTypePolicy::kF32:
      return DType::kF32;
    case DTypePolicy::kAuto:
      break;
  }
  return model.file_dtype == DType::kF16 && !backend.runs_f16 ? DType::kF32 : model.file_dtype;
}

KvLayout MakeKvLayout(const EngineConfig::Rings& rings, const ModelConfig& model, DType dtype) {
  return {.block_size = rings.block_size,
          .num_layers = model.num_layers,
          .num_kv_heads = model.num_kv_heads,
          .head_dim = model.head_dim,
          .dtype = dtype};
}

TileOptions MakeTileOptions(const EngineConfig& config,
                            const ModelConfig& model,
                            const BackendInfo& backend) {
  TileOptions options;
  options.num_heads = model.num_heads;
  options.num_kv_heads = model.num_kv_heads;
  options.tile_size = config.attention.tile_size;
  options.window = LayerGroups(model).front().window;
  options.head_tile_size = config.attention.head_tile_size;
  if (config.attention.tile_order != TileOrderPolicy::kAuto) {
    options.order = config.attention.tile_order == TileOrderPolicy::kQMajor ? TileOrder::kQMajor
                                                                            : TileOrder::kKMajor;
  }
  options.split_size = backend.split_size;
  options.num_workers = backend.num_workers;
  return options;
}

std::optional<TileOptions> MakeLocalTileOptions(const EngineConfig& config,
                                                const ModelConfig& model,
                                                const BackendInfo& backend) {
  const std::vector<LayerGroup> groups = LayerGroups(model);
  if (groups.size() < 2) {
    return std::nullopt;
  }
  TileOptions options = MakeTileOptions(config, model, backend);
  options.window = groups[1].window;
  return options;
}

StepLimits MakeStepLimits(const EngineConfig& config,
                          const ModelConfig& model,
                          const BackendInfo& backend) {
  const EngineConfig::Scheduler& scheduler = config.scheduler;
  StepLimits limits;
  limits.block_size = config.rings.block_size;
  limits.max_rows = scheduler.prefill_size + scheduler.max_batch;
  limits.max_sink_rows = scheduler.max_batch * config.rings.sink_size;
  limits.max_positions =
      config.rings.overflow == OverflowPolicy::kSlide ? 0 : config.rings.buffer_size;
  limits.max_logits_rows = std::max(scheduler.max_batch, kMinLogitsRows);
  if (model.has_encoder()) {
    const int32_t block_size = config.rings.block_size;
    limits.max_encoder_rows = static_cast<int32_t>(
        std::max<int64_t>(config.rings.buffer_size - block_size,
                          int64_t{scheduler.prefill_size / block_size} * block_size));
  }
  limits.max_partials =
      MaxPartials(MakeTileOptions(config, model, backend),
                  std::max(limits.max_rows, limits.max_encoder_rows),
                  scheduler.max_batch,
                  MakeSessionShape(config, model).buffer_size + config.rings.sink_size);
  limits.max_entries = scheduler.max_batch * BlocksPerSession(config, model);
  return limits;
}

int64_t HiddenFloats(const ModelConfig& model, const StepLimits& limits) {
  return model.has_encoder() ? 0 : int64_t{limits.max_rows} * model.hidden_dim;
}

SessionShape MakeSessionShape(const EngineConfig& config, const ModelConfig& model) {
  const int64_t window = LayerGroups(model).front().window;
  if (window == kNoWindow) {
    SessionShape shape = MakeSessionShape(config.rings);
    shape.has_source = model.has_encoder();
    return shape;
  }
  const int64_t max_length = config.rings.overflow == OverflowPolicy::kSlide
                                 ? std::numeric_limits<int64_t>::max()
                                 : config.rings.buffer_size;
  return MakeWindowShape(
      window, config.rings.block_size, config.scheduler.prefill_size, max_length);
}

int64_t BlocksPerSession(const EngineConfig& config, const ModelConfig& model) {
  return WorstCaseBlocks(MakeSessionShape(config, model), std::numeric_limits<int64_t>::max());
}

void CheckFit(const EngineConfig& config, const ModelConfig& model, Problems& problems) {
  if (config.rings.buffer_size > model.max_positions) {
    problems.Add(fmt::format("rings.buffer_size: {} exceeds the model's max_position_embeddings {}",
                             config.rings.buffer_size,
                             model.max_positions));
  }
  CheckSlide(config, model, problems);
  if (model.has_encoder() && config.speculation.method != SpeculationMethod::kOff) {
    problems.Add("speculation.method: an encoder-decoder does not guess ahead; say \"off\"");
  }
  if (model.has_encoder() && config.sessions.share_prefixes) {
    problems.Add(
        "sessions.share_prefixes: an encoder reads a prompt whole: no two begin with equal blocks");
  }
  if (model.has_encoder() && config.rings.buffer_size > kMaxEncoderRows) {
    problems.Add(fmt::format("rings.buffer_size: {} is more than {}, what an encoder reads at once",
                             config.rings.buffer_size,
                             kMaxEncoderRows));
  }
  const int32_t group = model.num_heads / model.num_kv_heads;
  if (config.attention.head_tile_size > group) {
    problems.Add(
        fmt::format("attention.head_tile_size: {} exceeds the {} query heads that share a KV head",
                    config.attention.head_tile_size,
                    group));
  }
  if (config.generation.top_k.value_or(0) > model.vocab_size) {
    problems.Add(fmt::format("generation.top_k: {} exceeds the vocabulary of {}",
                             *config.generation.top_k,
                             model.vocab_size));
  }
}

absl::StatusOr<MemoryPlan> PlanMemory(const EngineConfig& config,
                                      const ModelConfig& model,
                                      DType dtype,
                                      const Backend& backend) {
  Problems problems;
  CheckFit(config, model, problems);
  RETURN_IF_ERROR(problems.ToStatus());
  MemoryPlan plan;
  plan.kv = MakeKvLayout(config.rings, model, dtype);
  plan.weight_bytes = Weights::SlabBytes(model, dtype, backend);
  const StepLimits limits = MakeStepLimits(config, model, backend.info());
  RETURN_IF_ERROR(backend.CheckSteps(limits));
  const BackendMemory steps = backend.StepMemory(model, dtype, limits);
  plan.workspace_bytes = Model::WorkspaceBytes(model, dtype, limits) + steps.device_bytes;
  plan.staging_bytes = steps.pinned_bytes;
  const int64_t num_flights = backend.info().runs_ahead ? 2 : 1;
  plan.hidden_bytes =
      num_flights * HiddenFloats(model, limits) * static_cast<int64_t>(sizeof(float));
  plan.blocks_per_session = BlocksPerSession(config, model);
  ASSIGN_OR_RETURN(plan.device_blocks, DeviceBlocks(config, plan.kv, plan.blocks_per_session));
  ASSIGN_OR_RETURN(plan.pinned_blocks, PinnedBlocks(config, plan.kv, plan.device_blocks));
  if (!config.memory.disk_path.empty()) {
    plan.disk_buffer_bytes = DiskTier::kNumPieces * DiskTier::PieceBytes(plan.kv);
  }
  plan.max_sessions = plan.device_blocks / plan.blocks_per_session;
  if (plan.device_blocks > kMaxPlanBytes / plan.kv.block_bytes() ||
      plan.weight_bytes > kMaxPlanBytes || plan.workspace_bytes > kMaxPlanBytes) {
    return Invalid(
        fmt::format("rings.buffer_size: {} and scheduler.max_batch: {} make a plan of "
                    "more than {} bytes",
                    config.rings.buffer_size,
                    config.scheduler.max_batch,
                    kMaxPlanBytes));
  }
  return plan;
}

std::string FormatMemoryPlan(const MemoryPlan& plan) {
  std::string table = fmt::format("{:<16} {:>16} {:>12}\n", "memory", "bytes", "size");
  const auto add = [&](std::string_view part, int64_t bytes, const std::string& note) {
    table += fmt::format(
        "{:<16} {:>16} {:>12}{}{}\n", part, bytes, Readable(bytes), note.empty() ? "" : "  ", note);
  };
  const auto blocks = [&](int64_t count) {
    return fmt::format(
        "{} blocks of {} tokens, {} bytes each", count, plan.kv.block_size, plan.kv.block_bytes());
  };
  add("weights", plan.weight_bytes, DTypeName(plan.kv.dtype));
  add("KV pool", plan.device_kv_bytes(), blocks(plan.device_blocks));
  add("workspace", plan.workspace_bytes, "");
  if (plan.draft_weight_bytes > 0) {
    add("draft weights", plan.draft_weight_bytes, DTypeName(plan.draft_kv.dtype));
    add("draft KV pool",
        plan.draft_kv_bytes(),
        fmt::format("{} blocks of {} tokens, {} bytes each",
                    plan.draft_blocks,
                    plan.draft_kv.block_size,
                    plan.draft_kv.block_bytes()));
    add("draft workspace", plan.draft_workspace_bytes, "");
  }
  add("device total", plan.device_bytes(), "");
  if (plan.pinned_blocks > 0) {
    add("host KV pool", plan.pinned_kv_bytes(), blocks(plan.pinned_blocks));
  }
  if (plan.staging_bytes > 0) {
    add("host staging", plan.staging_bytes, "");
  }
  if (plan.hidden_bytes > 0) {
    add("host embeddings", plan.hidden_bytes, "");
  }
  if (plan.disk_buffer_bytes > 0) {
    add("disk buffers", plan.disk_buffer_bytes, "");
  }
  const int64_t session_bytes = plan.blocks_per_session * plan.kv.block_bytes();
  table += fmt::format("{} at once, each of at most {} blocks, {}\n",
                       plan.max_sessions == 1 ? std::string("1 session")
                                              : fmt::format("{} sessions", plan.max_sessions),
                       plan.blocks_per_session,
                       Readable(session_bytes));
  return table;
}

}  // namespace ringserve
