#include "server/reading.h"

#include <cstddef>
#include <utility>
#include <variant>

#include "server/convert.h"

namespace ringserve {

absl::Status Reading::Begin(GenerateRequest request) {
  owner_ = request.owner;
  num_parts_ = static_cast<int32_t>(request.siblings.size()) + 1;
  parts_.resize(static_cast<size_t>(num_parts_));
  first_engine_id_ = setup_.pump.Register(*this, num_parts_);
  NameCompletions(request, first_engine_id_);
  const uint64_t first_id = first_engine_id_;
  const int32_t num_parts = num_parts_;
  StreamPump& pump = setup_.pump;
  // Once it is taken, this may have ended and be gone.
  absl::Status submitted = setup_.engine.Submit(std::move(request));
  if (!submitted.ok()) {
    pump.Unregister(first_id, num_parts);
  }
  return submitted;
}

void Reading::Cancel() {
  for (int32_t i = 0; i < num_parts_; ++i) {
    setup_.engine.Cancel(first_engine_id_ + static_cast<uint64_t>(i));
  }
}

void Reading::Push(TokenEvent&& event) {
  Part& part = parts_[static_cast<size_t>(event.request_id - first_engine_id_)];
  const Usage* ended = nullptr;
  if (auto* token = std::get_if<SampledTokenEvent>(&event.event)) {
    part.tokens.push_back(std::move(token->token));
  } else if (auto* embedding = std::get_if<EmbeddingEvent>(&event.event)) {
    part.embedding = std::move(embedding->values);
  } else if (const auto* finished = std::get_if<FinishedEvent>(&event.event)) {
    part.finished = *finished;
    ended = &finished->usage;
  } else if (const auto* failed = std::get_if<FailedEvent>(&event.event)) {
    ended = &failed->usage;
    if (failure_.ok()) {
      failure_ = failed->status;
      Cancel();
    }
  }
  if (ended == nullptr) {
    return;
  }
  ++num_ended_;
  if (setup_.accounts != nullptr) {
    setup_.accounts->Add(owner_, *ended);
    if (num_ended_ == num_parts_) {
      setup_.accounts->CountRequest(owner_, failure_.ok());
    }
  }
}

void Reading::Flush() {
  if (num_ended_ == num_parts_) {
    const auto on_end = setup_.on_end;  // outlives this
    on_end(absl::Status(failure_));
  }
}

}  // namespace ringserve
