#include "engine/engine.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "engine/backend/backend.h"
#include "engine/backend/make_backend.h"
#include "engine/draft_model.h"
#include "engine/draft_plan.h"
#include "engine/drafter.h"
#include "engine/engine_loop.h"
#include "engine/engine_thread.h"
#include "engine/io_queue.h"
#include "engine/model/model.h"
#include "engine/model/model_identity.h"
#include "engine/model/weights.h"
#include "engine/session.h"
#include "engine/session_files.h"

namespace ringserve {

using MakeBackendFunction = decltype(Engine::Options::make_backend);

// In the order of construction; the thread ends first.
struct Engine::State {
  EngineConfig config;
  ModelConfig model_config;
  MemoryPlan plan;
  uint64_t identity = 0;  // IdentifyModel
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Weights> weights;
  Buffer device_pool;
  Buffer pinned_pool;
  Buffer disk_buffers;
  std::unique_ptr<Model> model;
  std::unique_ptr<SessionFiles> files;  // null: there is no disk tier
  // Of the model that drafts, if there is one.
  ModelConfig draft_config;
  std::unique_ptr<Backend> draft_backend;  // null: it runs on that of the other
  std::unique_ptr<Weights> draft_weights;
  Buffer draft_pool;
  std::unique_ptr<Model> draft_model;
  std::unique_ptr<Drafter> drafter;  // null: off
  std::unique_ptr<EngineLoop> loop;
  // They work for the loop until they have ended.
  std::optional<IoThread> disk_reads;
  std::optional<IoThread> disk_writes;
  std::optional<EngineThread> thread;

  // Everything that is known without loading.
  absl::Status Prepare(const MakeBackendFunction& make_backend);
  absl::Status Allocate(const LoadProgress& progress);
  absl::Status AllocateDraft();

  Backend& BackendOfDraft() { return draft_backend != nullptr ? *draft_backend : *backend; }

  std::unique_ptr<Drafter> MakeDrafter();
  SnapshotKey MakeSnapshotKey(const SessionShape& shape) const;
  void Start(EventSink& sink);

  bool has_draft_model() const { return config.speculation.method == SpeculationMethod::kDraft; }
};

absl::Status Engine::State::Prepare(const MakeBackendFunction& make_backend) {
  ASSIGN_OR_RETURN(model_config, LoadModelConfig(config.model.path));
  const auto make = [&] {
    return make_backend ? make_backend() : MakeBackend(config.device, config.num_threads);
  };
  ASSIGN_OR_RETURN(backend, make());
  const DType dtype = RunDType(config.model.dtype, model_config, backend->info());
  RETURN_IF_ERROR(backend->CheckModel(model_config, dtype));
  ASSIGN_OR_RETURN(plan, PlanMemory(config, model_config, dtype, *backend));
  if (has_draft_model()) {
    if (backend->info().serves_one_model) {
      ASSIGN_OR_RETURN(draft_backend, make());
    }
    ASSIGN_OR_RETURN(draft_config, LoadDraftConfig(config, model_config, *backend));
    RETURN_IF_ERROR(PlanDraft(config, model_config, draft_config, *backend, plan));
  }
  return absl::OkStatus();
}

absl::Status Engine::State::Allocate(const LoadProgress& progress) {
  RETURN_IF_ERROR(backend->CheckMemory(
      {.device_bytes = plan.device_bytes(), .pinned_bytes = plan.host_bytes()}));
  ASSIGN_OR_RETURN(
      weights, Weights::Load(config.model.path, model_config, plan.kv.dtype, *backend, progress));
  ASSIGN_OR_RETURN(identity, IdentifyModel(config.model.path));
  if (!config.memory.disk_path.empty()) {
    // A folder of its own for each model: several may be served from one path.
    ASSIGN_OR_RETURN(
        files, SessionFiles::Open(fmt::format("{}/{:016x}", config.memory.disk_path, identity)));
    ASSIGN_OR_RETURN(
        disk_buffers,
        backend->Allocate(static_cast<size_t>(plan.disk_buffer_bytes), MemoryKind::kPinned));
  }
  ASSIGN_OR_RETURN(
      device_pool,
      backend->Allocate(static_cast<size_t>(plan.device_kv_bytes()), MemoryKind::kDevice));
  if (plan.pinned_blocks > 0) {
    ASSIGN_OR_RETURN(
        pinned_pool,
        backend->Allocate(static_cast<size_t>(plan.pinned_kv_bytes()), MemoryKind::kPinned));
  }
  ASSIGN_OR_RETURN(
      model,
      Model::Create(
          model_config, *weights, MakeStepLimits(config, model_config, backend->info()), *backend));
  return has_draft_model() ? AllocateDraft() : absl::OkStatus();
}

absl::Status Engine::State::AllocateDraft() {
  const EngineConfig own = DraftEngineConfig(config, draft_config);
  Backend& runs = BackendOfDraft();
  ASSIGN_OR_RETURN(
      draft_weights,
      Weights::Load(config.speculation.draft_path, draft_config, plan.draft_kv.dtype, runs, {}));
  ASSIGN_OR_RETURN(draft_pool,
                   runs.Allocate(static_cast<size_t>(plan.draft_kv_bytes()), MemoryKind::kDevice));
  ASSIGN_OR_RETURN(
      draft_model,
      Model::Create(
          draft_config, *draft_weights, MakeStepLimits(own, draft_config, runs.info()), runs));
  return absl::OkStatus();
}

std::unique_ptr<Drafter> Engine::State::MakeDrafter() {
  switch (config.speculation.method) {
    case SpeculationMethod::kOff:
      return nullptr;
    case SpeculationMethod::kLookup:
      return std::make_unique<LookupDrafter>(config.speculation.min_match);
    case SpeculationMethod::kDraft:
      break;
  }
  const EngineConfig own = DraftEngineConfig(config, draft_config);
  DraftModel::Parts parts;
  parts.runner = {.backend = &BackendOfDraft(),
                  .model = draft_model.get(),
                  .kv_pool = draft_pool.data(),
                  .kv = plan.draft_kv,
                  .tiles = MakeTileOptions(own, draft_config, backend->info()),
                  .vocab_size = draft_config.vocab_size};
  parts.shape = MakeSessionShape(own.rings);
  parts.num_readers = config.scheduler.max_batch;
  parts.num_blocks = static_cast<int32_t>(plan.draft_blocks);
  // A text that is new to the reader must not hold up the others' next tokens for long.
  constexpr int32_t kReadRows = 64;
  parts.max_rows = config.scheduler.max_batch + std::min(config.scheduler.prefill_size, kReadRows);
  return std::make_unique<DraftModel>(parts);
}

SnapshotKey Engine::State::MakeSnapshotKey(const SessionShape& shape) const {
  const BackendInfo info = backend->info();
  // Which of longrope's factors hold follows from how long a text may become.
  const bool is_long =
      model_config.rope.kind == RopeConfig::Kind::kLongRope &&
      (shape.slides || config.rings.buffer_size > model_config.rope.original_max_position);
  return {.model = is_long ? ~identity : identity,
          .backend = fmt::format("{} {}", info.device, info.kernels).substr(0, 63),
          .kv = plan.kv,
          .vocab_size = model_config.vocab_size,
          .slides = config.rings.overflow == OverflowPolicy::kSlide,
          .sink_size = shape.sink_size,
          .window = shape.window,
          .local_kv = plan.local_kv,
          .local_window = shape.local_window};
}

void Engine::State::Start(EventSink& sink) {
  EngineLoop::Parts parts;
  parts.runner = {.backend = backend.get(),
                  .model = model.get(),
                  .kv_pool = device_pool.data(),
                  .kv = plan.kv,
                  .tiles = MakeTileOptions(config, model_config, backend->info()),
                  .local_tiles = MakeLocalTileOptions(config, model_config, backend->info()),
                  .local_kv_pool = device_pool.data() + plan.device_blocks * plan.kv.block_bytes(),
                  .local_kv = plan.local_kv,
                  .has_encoder = model_config.has_encoder(),
                  .vocab_size = model_config.vocab_size};
  parts.shape = MakeSessionShape(config, model_config);
  parts.snapshot_key = MakeSnapshotKey(parts.shape);
  parts.scheduler = config.scheduler;
  parts.sessions = config.sessions;
  parts.device_blocks = static_cast<int32_t>(plan.device_blocks);
  parts.host_blocks = static_cast<int32_t>(plan.pinned_blocks);
  parts.host_pool = pinned_pool.data();
  parts.local_blocks = plan.local_blocks;
  parts.local_host_pool = pinned_pool.data() + plan.pinned_blocks * plan.kv.block_bytes();
  parts.eos_token_ids = model_config.eos_token_ids;
  parts.decoder_start_token_id = model_config.decoder_start_token_id;
  parts.num_encoder_layers = model_config.num_encoder_layers;
  parts.hidden_floats =
      HiddenFloats(model_config, MakeStepLimits(config, model_config, backend->info()));
  drafter = MakeDrafter();
  parts.drafter = drafter.get();
  parts.max_draft = config.speculation.max_draft;
  if (files != nullptr) {
    parts.disk = {.files = files.get(),
                  .max_bytes = config.memory.disk_bytes,
                  .reads = &disk_reads.emplace(),
                  .writes = &disk_writes.emplace(),
                  .buffers = {disk_buffers.data(), disk_buffers.size()}};
  }
  loop = std::make_unique<EngineLoop>(parts, sink);
  thread.emplace(*loop);
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Engine::~Engine() = default;

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(Options options, EventSink& sink) {
  auto state = std::make_unique<State>();
  state->config = std::move(options.config);
  RETURN_IF_ERROR(state->Prepare(options.make_backend));
  LoadProgress progress;
  if (options.progress != nullptr) {
    progress = [&options](double fraction) {
      options.progress(fraction, options.progress_context);
    };
  }
  RETURN_IF_ERROR(state->Allocate(progress));
  state->Start(sink);
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
}

absl::StatusOr<MemoryPlan> Engine::Plan(const EngineConfig& config) {
  State state;
  state.config = config;
  RETURN_IF_ERROR(state.Prepare({}));
  return state.plan;
}

absl::Status Engine::Submit(GenerateRequest request) {
  RETURN_IF_ERROR(CheckGenerateRequest(request, limits()));
  return state_->loop->Submit(std::move(request));
}

absl::Status Engine::CheckQueue() const {
  return state_->loop->queue().CheckPush();
}

void Engine::Cancel(uint64_t request_id) {
  state_->loop->queue().Command({.request_id = request_id, .kind = RequestCommand::Kind::kCancel});
}

void Engine::CreateSession(std::string owner, SessionOptions options, SessionReply reply) {
  state_->loop->CreateSession(std::move(owner), options, std::move(reply));
}

void Engine::GetSession(std::string owner, std::string id, SessionReply reply) {
  state_->loop->GetSession(std::move(owner), std::move(id), std::move(reply));
}

void Engine::ListSessions(std::string owner, SessionListReply reply) {
  state_->loop->ListSessions(std::move(owner), std::move(reply));
}

void Engine::ForkSession(const std::string& owner,
                         const std::string& id,
                         std::optional<int64_t> position,
                         const CallOptions& options,
                         SessionReply reply) {
  state_->loop->ForkSession(owner, id, position, options, std::move(reply));
}

void Engine::RollbackSession(const std::string& owner,
                             const std::string& id,
                             int64_t position,
                             const CallOptions& options,
                             SessionReply reply) {
  state_->loop->RollbackSession(owner, id, position, options, std::move(reply));
}

void Engine::ExportSession(const std::string& owner,
                           const std::string& id,
                           const CallOptions& options,
                           ExportReply reply) {
  state_->loop->ExportSession(owner, id, options, std::move(reply));
}

std::unique_ptr<SessionImport> Engine::ImportSession(std::string owner,
                                                     const CallOptions& options) {
  return state_->loop->ImportSession(std::move(owner), options);
}

void Engine::CancelCall(uint64_t call_id) {
  state_->loop->CancelCall(call_id);
}

void Engine::CloseSession(std::string owner, std::string id, SessionReply reply) {
  state_->loop->CloseSession(std::move(owner), std::move(id), std::move(reply));
}

void Engine::SetPaused(uint64_t request_id, bool paused) {
  state_->loop->queue().Command(
      {.request_id = request_id,
       .kind = paused ? RequestCommand::Kind::kPause : RequestCommand::Kind::kResume});
}

void Engine::Drain(absl::Time deadline) {
  RequestQueue& queue = state_->loop->queue();
  queue.Close(absl::UnavailableError("the server is shutting down"));
  queue.SetDrainDeadline(deadline);
  queue.AwaitIdle();
}

EngineLoad Engine::load() const {
  return state_->loop->load();
}

absl::Duration Engine::step_age() const {
  return state_->loop->step_age();
}

const EngineConfig& Engine::config() const {
  return state_->config;
}

const MemoryPlan& Engine::memory_plan() const {
  return state_->plan;
}

const ModelConfig& Engine::model_config() const {
  return state_->model_config;
}

RequestLimits Engine::limits() const {
  const EngineConfig::Rings& rings = state_->config.rings;
  const bool slides = rings.overflow == OverflowPolicy::kSlide;
  const bool has_encoder = state_->model_config.has_encoder();
  // An encoder's prompt takes whole blocks and leaves one to the text.
  const int64_t most = has_encoder ? rings.buffer_size - rings.block_size : rings.buffer_size;
  return {.vocab_size = state_->model_config.vocab_size,
          .max_prompt_tokens = slides ? std::numeric_limits<int64_t>::max() : most,
          .max_context_tokens = rings.buffer_size,
          .has_encoder = has_encoder};
}

std::string Engine::device_description() const {
  const BackendInfo info = state_->backend->info();
  return fmt::format(
      "{}: {}, {}, {} {}", info.device, info.name, info.kernels, info.num_workers, info.worker);
}

}  // namespace ringserve
