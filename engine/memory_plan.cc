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

// Bytes of each size of blocks out of `bytes`: as a session's worst case divides them, so that
// neither runs out long before the other.
struct ByteSplit {
  int64_t global = 0;
  int64_t local = 0;
};

ByteSplit Split(int64_t bytes, const MemoryPlan& plan) {
  const int64_t session = plan.session_bytes();
  const int64_t num_sessions = bytes / session;
  const int64_t local_of_session = plan.local_blocks_per_session * plan.local_kv.block_bytes();
  const auto share = static_cast<double>(local_of_session) / static_cast<double>(session);
  const auto local =
      num_sessions * local_of_session +
      static_cast<int64_t>(share * static_cast<double>(bytes - num_sessions * session));
  return {.global = bytes - local, .local = local};
}

absl::Status CheckPinned(const KvLayout& kv, int64_t bytes, int64_t blocks, int64_t device_blocks) {
  if (blocks < 2) {
    return Invalid(
        fmt::format("memory.pinned_bytes: {} hold {} blocks of {} bytes; at least 2 are needed",
                    bytes,
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
  return absl::OkStatus();
}

// As many whole blocks as memory.pinned_bytes hold. One is kept free so that blocks can change
// places.
absl::Status PlanPinned(const EngineConfig& config, MemoryPlan& plan) {
  const int64_t wanted = config.memory.pinned_bytes;
  if (wanted == 0) {
    return absl::OkStatus();
  }
  const ByteSplit split = Split(wanted, plan);
  plan.pinned_blocks = split.global / plan.kv.block_bytes();
  RETURN_IF_ERROR(CheckPinned(plan.kv, split.global, plan.pinned_blocks, plan.device_blocks));
  if (!plan.has_local()) {
    return absl::OkStatus();
  }
  const int64_t local = split.local / plan.local_kv.block_bytes();
  RETURN_IF_ERROR(
      CheckPinned(plan.local_kv,
                  split.local,
                  local,
                  plan.device_blocks + plan.pinned_blocks + plan.local_blocks.num_device));
  plan.local_blocks.num_host = static_cast<int32_t>(local);
  return absl::OkStatus();
}

absl::Status PlanDevice(const EngineConfig& config, MemoryPlan& plan) {
  const int64_t wanted = config.memory.device_bytes;
  if (wanted == 0) {
    plan.device_blocks = config.scheduler.max_batch * plan.blocks_per_session;
  } else if (wanted >= plan.session_bytes() || !plan.has_local()) {
    plan.device_blocks = Split(wanted, plan).global / plan.kv.block_bytes();
  }
  if (plan.device_blocks < plan.blocks_per_session) {
    return Invalid(
        plan.has_local()
            ? fmt::format("memory.device_bytes: {} are less than one session of rings.buffer_size "
                          "{} needs: {} blocks of {} bytes and {} of {} of local layers, {} bytes",
                          wanted,
                          config.rings.buffer_size,
                          plan.blocks_per_session,
                          plan.kv.block_bytes(),
                          plan.local_blocks_per_session,
                          plan.local_kv.block_bytes(),
                          plan.session_bytes())
            : fmt::format("memory.device_bytes: {} hold {} blocks of {} bytes; one session of "
                          "rings.buffer_size {} needs {} blocks, {} bytes",
                          wanted,
                          plan.device_blocks,
                          plan.kv.block_bytes(),
                          config.rings.buffer_size,
                          plan.blocks_per_session,
                          plan.session_bytes()));
  }
  const int64_t local = !plan.has_local() ? 0
                        : wanted == 0 ? config.scheduler.max_batch * plan.local_blocks_per_session
                                      : Split(wanted, plan).local / plan.local_kv.block_bytes();
  if (plan.device_blocks > kMaxBlocks || local > kMaxBlocks - plan.device_blocks) {
    return Invalid(
        fmt::format("{}: {} blocks of {} tokens are more than {}; take a larger "
                    "rings.block_size",
                    wanted == 0 ? "scheduler.max_batch" : "memory.device_bytes",
                    plan.device_blocks + local,
                    plan.kv.block_size,
                    kMaxBlocks));
  }
  plan.local_blocks.num_device = static_cast<int32_t>(local);
  return absl::OkStatus();
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
          .num_layers = static_cast<int32_t>(LayerGroups(model).front().layers.size()),
          .num_kv_heads = model.num_kv_heads,
          .head_dim = model.head_dim,
          .dtype = dtype};
}

KvLayout MakeLocalKvLayout(const EngineConfig::Rings& rings,
                           const ModelConfig& model,
                           DType dtype) {
  KvLayout kv = MakeKvLayout(rings, model, dtype);
  kv.num_layers = model.num_layers - kv.num_layers;
  return kv;
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
  const SessionShape shape = MakeSessionShape(config, model);
  limits.max_partials =
      MaxPartials(MakeTileOptions(config, model, backend),
                  std::max(limits.max_rows, limits.max_encoder_rows),
                  scheduler.max_batch,
                  std::max(shape.buffer_size, shape.local_size) + config.rings.sink_size);
  const BlockCounts most = WorstCaseBlocks(shape, std::numeric_limits<int64_t>::max());
  limits.max_entries = scheduler.max_batch * std::max(most.global, most.local);
  return limits;
}

int64_t HiddenFloats(const ModelConfig& model, const StepLimits& limits) {
  return model.has_encoder() ? 0 : int64_t{limits.max_rows} * model.hidden_dim;
}

SessionShape MakeSessionShape(const EngineConfig& config, const ModelConfig& model) {
  const std::vector<LayerGroup> groups = LayerGroups(model);
  const int64_t window = groups.front().window;
  if (window == kNoWindow) {
    SessionShape shape = MakeSessionShape(config.rings);
    shape.has_source = model.has_encoder();
    if (groups.size() > 1) {
      shape.sink_size = 0;  // CheckFit refuses others
      AddLocalRing(groups[1].window, config.scheduler.prefill_size, shape);
    }
    return shape;
  }
  const int64_t max_length = config.rings.overflow == OverflowPolicy::kSlide
                                 ? std::numeric_limits<int64_t>::max()
                                 : config.rings.buffer_size;
  return MakeWindowShape(
      window, config.rings.block_size, config.scheduler.prefill_size, max_length);
}

BlockCounts BlocksPerSession(const EngineConfig& config, const ModelConfig& model) {
  BlockCounts most =
      WorstCaseBlocks(MakeSessionShape(config, model), std::numeric_limits<int64_t>::max());
  most.local *= 2;  // a turn keeps the ring that it found
  return most;
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
  if (config.sessions.share_prefixes && LayerGroups(model).size() > 1) {
    problems.Add(
        "sessions.share_prefixes: what local layers see of a prefix is not kept; say false for a "
        "model of local and global layers");
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
  plan.local_kv = MakeLocalKvLayout(config.rings, model, dtype);
  plan.weight_bytes = Weights::SlabBytes(model, dtype, backend);
  const StepLimits limits = MakeStepLimits(config, model, backend.info());
  RETURN_IF_ERROR(backend.CheckSteps(limits));
  const BackendMemory steps = backend.StepMemory(model, dtype, limits);
  plan.workspace_bytes = Model::WorkspaceBytes(model, dtype, limits) + steps.device_bytes;
  plan.staging_bytes = steps.pinned_bytes;
  const int64_t num_flights = backend.info().runs_ahead ? 2 : 1;
  plan.hidden_bytes =
      num_flights * HiddenFloats(model, limits) * static_cast<int64_t>(sizeof(float));
  const BlockCounts per_session = BlocksPerSession(config, model);
  plan.blocks_per_session = per_session.global;
  plan.local_blocks_per_session = per_session.local;
  RETURN_IF_ERROR(PlanDevice(config, plan));
  RETURN_IF_ERROR(PlanPinned(config, plan));
  if (!config.memory.disk_path.empty()) {
    plan.disk_buffer_bytes = DiskTier::kNumPieces * DiskTier::PieceBytes(plan.kv, plan.local_kv);
  }
  plan.max_sessions = plan.device_blocks / plan.blocks_per_session;
  if (plan.has_local()) {
    plan.max_sessions =
        std::min(plan.max_sessions, plan.local_blocks.num_device / plan.local_blocks_per_session);
  }
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
  const auto blocks = [](int64_t count, const KvLayout& kv) {
    return fmt::format(
        "{} blocks of {} tokens, {} bytes each", count, kv.block_size, kv.block_bytes());
  };
  add("weights", plan.weight_bytes, DTypeName(plan.kv.dtype));
  add("KV pool",
      plan.device_kv_bytes() - plan.local_device_kv_bytes(),
      blocks(plan.device_blocks, plan.kv));
  if (plan.has_local()) {
    add("local KV pool",
        plan.local_device_kv_bytes(),
        blocks(plan.local_blocks.num_device, plan.local_kv));
  }
  add("workspace", plan.workspace_bytes, "");
  if (plan.draft_weight_bytes > 0) {
    add("draft weights", plan.draft_weight_bytes, DTypeName(plan.draft_kv.dtype));
    add("draft KV pool", plan.draft_kv_bytes(), blocks(plan.draft_blocks, plan.draft_kv));
    add("draft workspace", plan.draft_workspace_bytes, "");
  }
  add("device total", plan.device_bytes(), "");
  if (plan.pinned_blocks > 0) {
    add("host KV pool",
        plan.pinned_kv_bytes() - plan.local_pinned_kv_bytes(),
        blocks(plan.pinned_blocks, plan.kv));
  }
  if (plan.local_blocks.num_host > 0) {
    add("host local KV",
        plan.local_pinned_kv_bytes(),
        blocks(plan.local_blocks.num_host, plan.local_kv));
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
  const std::string most = plan.has_local() ? fmt::format("{} blocks and {} of local layers",
                                                          plan.blocks_per_session,
                                                          plan.local_blocks_per_session)
                                            : fmt::format("{} blocks", plan.blocks_per_session);
  table += fmt::format("{} at once, each of at most {}, {}\n",
                       plan.max_sessions == 1 ? std::string("1 session")
                                              : fmt::format("{} sessions", plan.max_sessions),
                       most,
                       Readable(plan.session_bytes()));
  return table;
}

}  // namespace ringserve
