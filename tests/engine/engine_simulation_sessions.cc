// What is done to sessions.
#include <algorithm>
#include <iterator>
#include <utility>

#include "tests/engine/engine_simulation.h"

namespace ringserve {
namespace {

// Refused, or waited for who is paused.
bool IsForWantOfRoom(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsCancelled(status);
}

}  // namespace

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
    Ask(at->first);
  } else if (OneIn(3)) {
    if (at->second.request_id.has_value()) {
      live_.at(*at->second.request_id).was_cancelled = true;
    }
    for (AskedCall& call : asked_) {
      call.was_closed = call.was_closed || call.session == at->first;
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
  const bool is_asked = std::any_of(asked_.begin(), asked_.end(), [&](const AskedCall& call) {
    return call.session == at->first;
  });
  if (is_asked) {
    return;  // its text may change meanwhile
  }
  const bool was_busy = at->second.request_id.has_value();
  const absl::StatusOr<std::string> bytes = engine_->Export(at->first);
  Check();
  if (!bytes.ok()) {
    REQUIRE((was_busy || may_fault_ || IsForWantOfRoom(bytes.status())));
    return;
  }
  const absl::StatusOr<SessionInfo> copy = engine_->Import(*bytes, 1 + random_() % 4000);
  Check();
  if (!copy.ok()) {
    REQUIRE((may_fault_ || IsForWantOfRoom(copy.status())));
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
  Check();  // of forks that were made in the same step
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
  if (session.shape.has_local() && OneIn(2)) {
    // Long enough that the ring alone could not take it back.
    request.turn->on_interrupt = OnInterrupt::kRollback;
    request.stopping.max_tokens = 40;
    request.stopping.ignore_eos = true;
  }
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
  for (AskedCall& call : asked_) {
    call.may_be_busy = call.may_be_busy || call.session == id;
  }
  live_.emplace(request_id, std::move(live));
}

void Simulation::Ask(const std::string& id) {
  const ModelSession& session = sessions_.at(id);
  AskedCall& call = asked_.emplace_back();
  call.is_fork = OneIn(2);
  call.session = id;
  call.position = static_cast<int64_t>(random_() % (session.text.size() + 2));
  call.options.call_id = ++last_call_id_;
  if (OneIn(4)) {
    call.options.deadline = engine_->now() + absl::Seconds(1 + random_() % 5);
  }
  call.last_before = last_id_;
  call.may_be_busy = session.request_id.has_value();
  const SessionReply reply = [this, asked = &call](absl::StatusOr<SessionInfo> answer) {
    answers_.emplace_back(asked, std::move(answer));
  };
  if (call.is_fork) {
    engine_->loop().ForkSession("", id, std::nullopt, call.options, reply);
  } else {
    engine_->loop().RollbackSession("", id, call.position, call.options, reply);
  }
  engine_->loop().Step();
  num_waited_ += answers_.empty() ? 1 : 0;
  Check();
}

void Simulation::TakeAnswers() {
  for (const auto& [asked, answer] : answers_) {
    TakeAnswer(*asked, answer);
    const auto at =
        std::find_if(asked_.begin(), asked_.end(), [&, asked = asked](const AskedCall& call) {
          return &call == asked;
        });
    REQUIRE(at != asked_.end());  // answered once
    asked_.erase(at);
  }
  answers_.clear();
}

void Simulation::TakeAnswer(const AskedCall& call, const absl::StatusOr<SessionInfo>& answer) {
  CAPTURE(call.session, call.is_fork, call.position, answer.status().ToString());
  if (answer.ok() && call.is_fork) {
    ModelSession copy = sessions_.at(call.session);
    copy.request_id.reset();
    REQUIRE(answer->position == static_cast<int64_t>(copy.text.size()));
    sessions_.emplace(answer->id, std::move(copy));
    return;
  }
  if (answer.ok()) {
    sessions_.at(call.session).text.resize(static_cast<size_t>(call.position));
    REQUIRE(answer->position == call.position);
    return;
  }
  const absl::Status& status = answer.status();
  const auto found = sessions_.find(call.session);
  const bool is_outside = !call.is_fork && found != sessions_.end() &&
                          (found->second.shape.slides || found->second.shape.has_local() ||
                           call.position > static_cast<int64_t>(found->second.text.size()));
  REQUIRE((may_fault_ || absl::IsResourceExhausted(status) ||
           (absl::IsAborted(status) && call.may_be_busy) ||
           (absl::IsNotFound(status) && call.was_closed) ||
           (absl::IsCancelled(status) && call.was_cancelled) ||
           (absl::IsDeadlineExceeded(status) && engine_->now() >= call.options.deadline) ||
           (absl::IsInvalidArgument(status) && is_outside)));
}

void Simulation::CheckCallsInTurn() {
  if (asked_.empty() || disk_.has_value()) {
    return;  // who waits for the disk is no hindrance
  }
  for (const auto& [id, live] : live_) {
    REQUIRE((id <= asked_.front().last_before || !live.was_accepted));
  }
}

}  // namespace ringserve
