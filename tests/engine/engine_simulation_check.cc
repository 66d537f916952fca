// What must hold after each operation, and what an answer must be.
#include <algorithm>
#include <limits>
#include <utility>

#include "tests/engine/engine_simulation.h"

namespace ringserve {

void Simulation::CheckPriorities() {
  int32_t least_accepted = std::numeric_limits<int32_t>::max();
  int32_t most_waiting = std::numeric_limits<int32_t>::min();
  for (auto& [id, live] : live_) {
    if (live.was_accepted) {
      continue;
    }
    live.was_accepted = engine_->sink().is_accepted(id);
    const int32_t priority = live.request.priority;
    if (live.was_accepted) {
      least_accepted = std::min(least_accepted, priority);
    } else if (!engine_->sink().has_ended(id) && (live.session.empty() || !disk_.has_value())) {
      most_waiting = std::max(most_waiting, priority);
    }
  }
  REQUIRE(least_accepted >= most_waiting);
}

void Simulation::Check() {
  REQUIRE(engine_->loop().PoolBalances());
  CheckPriorities();
  for (const uint64_t id : engine_->sink().TakeEnded()) {
    const auto found = live_.find(id);
    REQUIRE(found != live_.end());
    CheckEnd(found->second, engine_->sink().Take(id));
    live_.erase(found);
  }
  TakeAnswers();
  CheckCallsInTurn();
  const EngineLoad load = engine_->loop().load();
  REQUIRE(load.queued <=
          engine_->options().scheduler.max_queue + engine_->options().scheduler.max_batch);
}

void Simulation::CheckEnd(Live& live, const Transcript& got) {
  const GenerateRequest& request = live.request;
  CAPTURE(request.request_id, live.session);
  if (live.refusal.has_value()) {
    REQUIRE(got.failed.has_value());
    REQUIRE((got.failed->status.code() == *live.refusal || may_fault_));
    REQUIRE(!got.accepted.has_value());
    return;
  }
  const Expected& expected = live.Expect(engine_->config());
  if (!live.session.empty()) {
    CheckTurn(live, got);
  }
  REQUIRE(got.tokens.size() <= expected.tokens.size());
  REQUIRE(got.prompt.size() <= expected.prompt.size());
  // A turn tells only of the windows that move while it runs.
  REQUIRE(got.notices.size() <= expected.notices.size());
  for (size_t i = 0; i < got.tokens.size(); ++i) {
    CheckToken(got.tokens[i], expected.tokens[i]);
  }
  for (size_t i = 0; i < got.prompt.size(); ++i) {
    CheckToken(got.prompt[i], expected.prompt[i]);
  }
  const bool tells_all = live.session.empty() && !live.is_sibling;
  for (size_t i = 0; tells_all && i < got.notices.size(); ++i) {
    REQUIRE(got.notices[i].first_position == expected.notices[i].first_position);
    REQUIRE(got.notices[i].evicted_tokens == expected.notices[i].evicted_tokens);
  }
  if (got.finished.has_value()) {
    REQUIRE(got.tokens.size() == expected.tokens.size());
    REQUIRE(got.prompt.size() == expected.prompt.size());
    REQUIRE((!tells_all || got.notices.size() == expected.notices.size()));
    REQUIRE(got.finished->reason == expected.reason);
    REQUIRE(got.finished->replay_digest == expected.digest);
    REQUIRE(got.finished->usage.accepted_tokens <= got.finished->usage.drafted_tokens);
    REQUIRE((request.speculate || got.finished->usage.drafted_tokens == 0));
    return;
  }
  const absl::Status& status = got.failed->status;
  CAPTURE(status.ToString());
  const bool is_late =
      engine_->now() >= request.deadline ||
      (!got.accepted.has_value() && request.queue_timeout < absl::InfiniteDuration());
  REQUIRE(((absl::IsCancelled(status) && live.was_cancelled) ||
           (absl::IsDeadlineExceeded(status) && is_late) ||
           (absl::IsInternal(status) && (may_fault_ || may_poison_)) ||
           // Idle sessions hold what it needs.
           (absl::IsResourceExhausted(status) && !got.accepted.has_value()) ||
           (absl::IsUnavailable(status) && may_fault_)));
}

void Simulation::CheckTurn(const Live& live, const Transcript& got) {
  ModelSession& session = sessions_.at(live.session);
  REQUIRE(session.request_id == live.request.request_id);
  session.request_id.reset();
  std::vector<int32_t> text = live.request.prompt;
  for (const int32_t token_id : got.token_ids()) {
    text.push_back(token_id);
  }
  const auto length = static_cast<int64_t>(text.size());
  if (got.finished.has_value()) {
    REQUIRE(got.finished->usage.reprefilled_tokens == 0);
    REQUIRE(got.finished->session_position == length);
    session.text = std::move(text);
    return;
  }
  const int64_t kept = got.failed->session_position;
  CAPTURE(got.failed->status.ToString(), live.on_interrupt, live.num_delivered);
  CAPTURE(live.num_before, live.request.prompt.size(), got.tokens.size(), may_fault_);
  CAPTURE(session.shape.slides, session.shape.buffer_size, session.shape.block_size);
  const auto before = static_cast<int64_t>(live.num_before);
  const auto num_tokens = static_cast<int64_t>(got.tokens.size());
  CAPTURE(before, num_tokens, got.failed->status.ToString(), session.shape.slides);
  CAPTURE(got.accepted.has_value(), static_cast<int>(live.on_interrupt), live.num_delivered);
  REQUIRE(kept >= before);
  REQUIRE(kept <= length);
  if (!session.shape.slides && !may_fault_) {
    const int64_t num_delivered = std::min(live.num_delivered, num_tokens);
    switch (live.on_interrupt) {
      case OnInterrupt::kRollback:
        REQUIRE(kept == before);
        break;
      case OnInterrupt::kKeepDelivered:
        // The local ring takes back a window; more than that, or the whole turn.
        REQUIRE((kept == (num_delivered > 0 ? length - num_tokens + num_delivered : before) ||
                 (session.shape.has_local() && kept == before &&
                  num_tokens - num_delivered > session.shape.local_window)));
        break;
      case OnInterrupt::kKeepAll:
        REQUIRE((num_tokens == 0 || kept == length));
        break;
    }
  }
  text.resize(static_cast<size_t>(kept));
  session.text = std::move(text);
}

void Simulation::CheckToken(const ScoredToken& got, const ScoredToken& expected) {
  REQUIRE(got.token.token_id == expected.token.token_id);
  REQUIRE(got.token.logprob == expected.token.logprob);
  REQUIRE(got.alternatives.size() == expected.alternatives.size());
}

}  // namespace ringserve
