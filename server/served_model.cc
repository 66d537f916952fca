#include "server/served_model.h"

#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "engine/base/check.h"
#include "server/event_guard.h"

namespace ringserve {
namespace {

class RealEngine final : public EnginePort {
 public:
  RealEngine(std::unique_ptr<EventGuard> guard, std::unique_ptr<Engine> engine)
      : guard_(std::move(guard)), engine_(std::move(engine)) {}

  absl::Status Submit(GenerateRequest request) override {
    RETURN_IF_ERROR(guard_->Expect(request));
    const std::vector<uint64_t> ids = RequestIds(request);
    absl::Status status = engine_->Submit(std::move(request));
    if (!status.ok()) {
      guard_->Forget(ids);
    }
    return status;
  }

  absl::Status CheckQueue() const override { return engine_->CheckQueue(); }

  void GiveUp(const absl::Status& status) override { guard_->GiveUp(status); }

  absl::Duration step_age() const override { return engine_->step_age(); }

  void Cancel(uint64_t request_id) override { engine_->Cancel(request_id); }

  void SetPaused(uint64_t request_id, bool paused) override {
    engine_->SetPaused(request_id, paused);
  }

  void CreateSession(std::string owner, SessionOptions options, SessionReply reply) override {
    engine_->CreateSession(std::move(owner), options, std::move(reply));
  }

  void GetSession(std::string owner, std::string id, SessionReply reply) override {
    engine_->GetSession(std::move(owner), std::move(id), std::move(reply));
  }

  void ListSessions(std::string owner, SessionListReply reply) override {
    engine_->ListSessions(std::move(owner), std::move(reply));
  }

  void ForkSession(const std::string& owner,
                   const std::string& id,
                   std::optional<int64_t> position,
                   const CallOptions& options,
                   SessionReply reply) override {
    engine_->ForkSession(owner, id, position, options, std::move(reply));
  }

  void RollbackSession(const std::string& owner,
                       const std::string& id,
                       int64_t position,
                       const CallOptions& options,
                       SessionReply reply) override {
    engine_->RollbackSession(owner, id, position, options, std::move(reply));
  }

  void ExportSession(const std::string& owner,
                     const std::string& id,
                     const CallOptions& options,
                     ExportReply reply) override {
    engine_->ExportSession(owner, id, options, std::move(reply));
  }

  std::unique_ptr<SessionImport> ImportSession(std::string owner,
                                               const CallOptions& options) override {
    return engine_->ImportSession(std::move(owner), options);
  }

  void CancelCall(uint64_t call_id) override { engine_->CancelCall(call_id); }

  void CloseSession(std::string owner, std::string id, SessionReply reply) override {
    engine_->CloseSession(std::move(owner), std::move(id), std::move(reply));
  }

  void Drain(absl::Time deadline) override { engine_->Drain(deadline); }

  EngineLoad load() const override {
    EngineLoad load = engine_->load();
    load.healthy = load.healthy && !guard_->has_given_up();
    return load;
  }

  RequestLimits limits() const override { return engine_->limits(); }

 private:
  std::unique_ptr<EventGuard> guard_;  // the engine's sink
  std::unique_ptr<Engine> engine_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(const EngineConfig& config,
                                                             EventSink& sink,
                                                             void (*progress)(double, void*),
                                                             void* progress_context) {
  Engine::Options options;
  options.config = config;
  options.progress = progress;
  options.progress_context = progress_context;
  return LoadServedModel(std::move(options), sink);
}

absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(Engine::Options options,
                                                             EventSink& sink) {
  auto model = std::make_unique<ServedModel>();
  const EngineConfig config = options.config;
  auto tokenizer = Tokenizer::Load(config.model.path);
  if (absl::IsNotFound(tokenizer.status())) {
    spdlog::warn("model=\"{}\" tokenizer=none: only token ids go in and out", config.model.name);
    tokenizer = Tokenizer::None();
  }
  ASSIGN_OR_RETURN(model->tokenizer, std::move(tokenizer));
  ASSIGN_OR_RETURN(model->chat_template, ChatTemplate::Load(config.model.path));
  auto guard = std::make_unique<EventGuard>(sink);
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, Engine::Create(std::move(options), *guard));
  if (model->tokenizer->vocab_size() > engine->model_config().vocab_size) {
    return absl::InvalidArgumentError(
        fmt::format("{}: tokenizer.json has token id {}, config.json's vocab_size is {}",
                    config.model.path,
                    model->tokenizer->vocab_size() - 1,
                    engine->model_config().vocab_size));
  }
  const auto vocabulary = Vocabulary::Of(*model->tokenizer, engine->model_config().vocab_size);
  model->constraints_status = vocabulary.status();
  if (vocabulary.ok()) {
    model->constraints = std::make_unique<ConstraintCompiler>(*vocabulary);
  }
  model->config = engine->config();
  model->shape = engine->model_config();
  model->defaults = model->shape.generation;
  model->defaults.Replace(model->config.generation);
  model->plan = engine->memory_plan();
  model->device = engine->device_description();
  model->engine = std::make_unique<RealEngine>(std::move(guard), std::move(engine));
  return model;
}

absl::Status ServedModel::CheckTokenizer(std::string_view field) const {
  return has_tokenizer() ? absl::OkStatus()
                         : absl::FailedPreconditionError(
                               fmt::format("{}: the folder of model \"{}\" has neither "
                                           "tokenizer.json nor tokenizer.model; send token_ids",
                                           field,
                                           name()));
}

void ModelSet::Publish(std::vector<std::unique_ptr<ServedModel>> models) {
  RS_CHECK(state() == State::kStarting);
  models_ = std::move(models);
  state_.store(State::kReady, std::memory_order_release);
}

void ModelSet::BeginDrain() {
  State ready = State::kReady;
  state_.compare_exchange_strong(ready, State::kDraining, std::memory_order_acq_rel);
}

std::span<const std::unique_ptr<ServedModel>> ModelSet::models() const {
  if (state() == State::kStarting) {
    return {};
  }
  return models_;
}

absl::StatusOr<ServedModel*> ModelSet::Find(const std::string& name) const {
  if (state() == State::kStarting) {
    return absl::UnavailableError("the server is loading its models");
  }
  if (name.empty()) {
    if (models_.size() == 1) {
      return models_.front().get();
    }
    return absl::InvalidArgumentError(
        fmt::format("model: not set, and {} models are served", models_.size()));
  }
  for (const auto& model : models_) {
    if (model->name() == name) {
      return model.get();
    }
  }
  std::string served;
  for (const auto& model : models_) {
    served += (served.empty() ? "" : ", ") + model->name();
  }
  return absl::NotFoundError(
      fmt::format("model: \"{}\" is not served; served: {}", name.substr(0, 128), served));
}

}  // namespace ringserve
