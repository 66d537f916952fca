// The models of this process: loaded before the server is ready, unchanged until it stops.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/generation_defaults.h"
#include "engine/base/status.h"
#include "engine/chat/chat_template.h"
#include "engine/constraint/constraint.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "engine/text/tokenizer.h"
#include "server/engine_port.h"

namespace ringserve {

struct ServedModel {
  EngineConfig config;
  ModelConfig shape;
  MemoryPlan plan;
  std::string device;
  std::unique_ptr<Tokenizer> tokenizer;  // or Tokenizer::None()
  // Null if this model's tokenizer can serve none; constraints_status then says why.
  std::unique_ptr<ConstraintCompiler> constraints;
  absl::Status constraints_status;
  std::optional<ChatTemplate> chat_template;
  GenerationDefaults defaults;         // the model's, and its config's in their place
  std::unique_ptr<EnginePort> engine;  // stops first: its requests borrow the tokenizer

  const std::string& name() const { return config.model.name; }

  bool has_tokenizer() const { return tokenizer->vocab_size() > 0; }

  // FAILED_PRECONDITION naming the field that needs a tokenizer if the folder has none.
  absl::Status CheckTokenizer(std::string_view field) const;
};

// Loads model, tokenizer and engine. `sink` must outlive the model. `progress` as in
// Engine::Options.
absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(const EngineConfig& config,
                                                             EventSink& sink,
                                                             void (*progress)(double, void*),
                                                             void* progress_context);

// The same with an engine of any backend.
absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(Engine::Options options,
                                                             EventSink& sink);

// Starts empty ("starting"); Publish makes the models visible, once; BeginDrain refuses what comes
// after it. Any thread.
class ModelSet {
 public:
  enum class State { kStarting, kReady, kDraining };

  void Publish(std::vector<std::unique_ptr<ServedModel>> models);
  void BeginDrain();

  State state() const { return state_.load(std::memory_order_acquire); }

  // By name; an empty name is the only model. UNAVAILABLE while starting; INVALID_ARGUMENT,
  // NOT_FOUND.
  absl::StatusOr<ServedModel*> Find(const std::string& name) const;
  // Empty while starting.
  std::span<const std::unique_ptr<ServedModel>> models() const;

 private:
  std::atomic<State> state_ = State::kStarting;
  std::vector<std::unique_ptr<ServedModel>> models_;  // written before kReady is stored
};

}  // namespace ringserve
