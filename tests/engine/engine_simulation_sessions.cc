// What is done to sessions.
#include <algorithm>
#include <iterator>
#include <utility>

#include "tests/engine/engine_simulation.h"

namespace ringserve {

void Simulation::OperateOnSessions(uint64_t kind) {
  if (sessions_.empty() || OneIn(8)) {
    CreateSession();
    return;
  }
  auto at = sessions_.begin();
  std::advance(at, static_cast<std::ptrdiff_t>(random_() % sessions_.size()));
  if (kind < 24) {
    SubmitTurn(at->first, at->second);
  } else if (kind == 24) {
    OneIn(2) ? RollbackSession(at->first) : ForkSession(at->first);
  } else if (OneIn(3)) {
    if (at->second.request_id.has_value()) {
      live_.at(*at->second.request_id).was_cancelled = true;
    }
    const absl::StatusOr<SessionInfo> closed = engine_->Close(at->first);
    if (closed.ok()) {
      Check();  // of the turn that it ended
      sessions_.erase(at);
    } else {
      REQUIRE(may_fault_);
    }
  }
}

void Simulation::TakeAbroad() {
  if (sessions_.empty()) {
    return;
  }
  auto at = sessions_.begin();
  std::advance(at, static_cast<std::ptrdiff_t>(random_() % sessions_.size()));
  const bool was_busy = at->second.request_id.has_value();
  const absl::StatusOr<std::string> bytes = engine_->Export(at->first);
  Check();
  if (!bytes.ok()) {
    REQUIRE((was_busy || may_fault_ || absl::IsResourceExhausted(bytes.status())));
    return;
  }
  const absl::StatusOr<SessionInfo> copy = engine_->Import(*bytes, 1 + random_() % 4000);
  Check();
  if (!copy.ok()) {
    REQUIRE((may_fault_ || absl::IsResourceExhausted(copy.status())));
    return;
  }
  ModelSession session = at->second;
  session.request_id.reset();
  REQUIRE(copy->position == static_cast<int64_t>(session.text.size()));
  sessions_.emplace(copy->id, std::move(session));
}

void Simulation::CreateSession() {
  const SessionShape& shape = engine_->options().shape;
  SessionOptions options;
  ModelSession session;
  session.shape = shape;
  const int64_t num_blocks = shape.buffer_size / shape.block_size;
  if (num_blocks > 2 && OneIn(2)) {
    options.buffer_size =
        shape.block_size *
        (2 + static_cast<int64_t>(random_() % static_cast<uint64_t>(num_blocks - 1)));
    session.shape.buffer_size = options.buffer_size;
    session.shape.feedback_size = std::min(shape.feedback_size, options.buffer_size);
  }
  const absl::StatusOr<SessionInfo> made = engine_->Create(options);
  if (made.ok()) {
    sessions_.emplace(made->id, std::move(session));
  } else {
    REQUIRE((may_fault_ || (absl::IsResourceExhausted(made.status()) && sessions_.size() == 5)));
  }
}

void Simulation::SubmitTurn(const std::string& id, ModelSession& session) {
  GenerateRequest request = RandomRequest();
  request.owner.clear();
  request.sampling.repetition_penalty = 1;  // its history ends where the window does
  request.sampling.frequency_penalty = 0;
  request.output.prompt_logprobs = false;
  request.prompt.resize(1 + request.prompt.size() / 3);
  request.turn.emplace();
  request.turn->session_id = id;
  request.turn->on_interrupt = static_cast<OnInterrupt>(random_() % 3);
  Live live;
  live.request = Copy(request);
  live.shape = session.shape;
  live.session = id;
  live.on_interrupt = request.turn->on_interrupt;
  live.num_before = session.text.size();
  live.num_delivered = static_cast<int64_t>(random_() % 12);
  live.request.prompt = session.text;
  live.request.prompt.insert(
      live.request.prompt.end(), request.prompt.begin(), request.prompt.end());
  if (session.request_id.has_value()) {
    live.refusal = absl::StatusCode::kAborted;
  } else if (OneIn(10)) {
    request.turn->expected_position = static_cast<int64_t>(session.text.size()) + 1;
    live.refusal = absl::StatusCode::kAborted;
  } else if (!session.shape.slides &&
             live.request.prompt.size() > static_cast<size_t>(session.shape.buffer_size)) {
    live.refusal = absl::StatusCode::kInvalidArgument;
  }
  const uint64_t request_id = request.request_id;
  engine_->sink().SetDelivered(request_id, live.num_delivered);
  const absl::Status status = engine_->loop().Submit(std::move(request));
  if (!status.ok()) {
    REQUIRE((absl::IsResourceExhausted(status) || (may_fault_ && absl::IsUnavailable(status))));
    return;
  }
  if (!live.refusal.has_value()) {
    session.request_id = request_id;
  }
  live_.emplace(request_id, std::move(live));
}

void Simulation::RollbackSession(const std::string& id) {
  const auto wanted = static_cast<int64_t>(random_() % (sessions_.at(id).text.size() + 2));
  const bool was_busy = sessions_.at(id).request_id.has_value();
  const absl::StatusOr<SessionInfo> done = engine_->Rollback(id, wanted);
  Check();
  ModelSession& session = sessions_.at(id);
  if (done.ok()) {
    session.text.resize(static_cast<size_t>(wanted));
    REQUIRE(done->position == wanted);
  } else {
    REQUIRE((was_busy || may_fault_ || absl::IsResourceExhausted(done.status()) ||
             wanted > static_cast<int64_t>(session.text.size()) || session.shape.slides));
  }
}

void Simulation::ForkSession(const std::string& id) {
  const bool was_busy = sessions_.at(id).request_id.has_value();
  const absl::StatusOr<SessionInfo> fork = engine_->Fork(id);
  Check();
  if (fork.ok()) {
    ModelSession copy = sessions_.at(id);
    copy.request_id.reset();
    REQUIRE(fork->position == static_cast<int64_t>(copy.text.size()));
    sessions_.emplace(fork->id, std::move(copy));
  } else {
    REQUIRE((was_busy || may_fault_ || absl::IsResourceExhausted(fork.status())));
  }
}

}  // namespace ringserve
