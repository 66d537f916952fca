// One admitted request: its place in the pool, what it has made so far, and when it ends.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <absl/time/time.h>

#include "engine/plan/request_queue.h"
#include "engine/plan/scheduler.h"
#include "engine/request.h"
#include "engine/sample/replay_digest.h"
#include "engine/sample/sampler.h"
#include "engine/sample/token_history.h"
#include "engine/session.h"

namespace ringserve {

// The most positions whose keys and values a request can come to need: the last token it makes
// needs none.
int64_t MaxPositions(const GenerateRequest& request);

class Sequence {
 public:
  // `eos_token_ids` are the model's.
  Sequence(QueuedRequest queued,
           absl::Time now,
           std::span<const int32_t> eos_token_ids,
           const SessionShape& shape,
           BlockPool& pool);

  uint64_t request_id() const { return request_.request_id; }

  const GenerateRequest& request() const { return request_; }

  Session& session() { return session_; }

  const Session& session() const { return session_; }

  const Usage& usage() const { return usage_; }

  bool is_paused() const { return is_paused_; }

  void set_paused(bool paused) { is_paused_ = paused; }

  // Tokens of the prompt that are still to be prefilled.
  int64_t prompt_left() const;

  SequenceView View() const;

  // Makes room for the scheduled rows and returns their tokens, valid until the next call.
  std::span<const int32_t> Advance(const ScheduledRows& rows, int64_t step);

  // What the last Advance dropped from the window, once.
  std::optional<ContextNoticeEvent> TakeNotice();

  // How the row at the session's newest position is to be sampled.
  SampleRow RowToSample() const;
  // How the row at a prompt position (not the last) is to be scored.
  SampleRow RowToScore(int64_t position) const;

  // Takes the sampled token; the reason if it is the last.
  std::optional<FinishReason> TakeToken(const ScoredToken& token, absl::Time now);

  AcceptedEvent Accepted() const;
  // Commits the turn.
  FinishedEvent Finish(FinishReason reason, absl::Time now);

 private:
  bool IsStopToken(int32_t token_id) const;

  GenerateRequest request_;
  const int64_t arrival_;
  const absl::Time arrival_time_;
  const absl::Time admitted_time_;
  absl::Time first_token_time_;
  Session session_;
  std::vector<int32_t> stop_ids_;        // sorted
  std::optional<TokenHistory> history_;  // if a penalty needs it
  ReplayDigest digest_;
  Usage usage_;
  int64_t last_step_ = 0;
  int64_t evicted_now_ = 0;  // by the last Advance
  int32_t stop_index_ = -1;
  int32_t next_token_ = 0;  // sampled, not yet in the rings
  bool is_paused_ = false;
};

}  // namespace ringserve
