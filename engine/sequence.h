// One admitted request: its place in the pool, what it has made so far, and when it ends.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <absl/time/time.h>

#include "engine/drafter.h"
#include "engine/plan/request_queue.h"
#include "engine/plan/scheduler.h"
#include "engine/plan/speculation.h"
#include "engine/request.h"
#include "engine/sample/replay_digest.h"
#include "engine/sample/sampler.h"
#include "engine/sample/token_history.h"
#include "engine/session.h"
#include "engine/session_store.h"

namespace ringserve {

// The most positions whose keys and values a request can come to need beyond what its session
// holds: the last token it makes needs none.
int64_t MaxPositions(const GenerateRequest& request, const SessionShape& shape);

// Full blocks of the prompt that a sibling refers to instead of taking them.
int64_t NumShared(const GenerateRequest& request, const SessionShape& shape);

class Sequence {
 public:
  struct Setup {
    absl::Time now;
    std::span<const int32_t> eos_token_ids;  // the model's
    SessionEntry* entry = nullptr;           // whose turn it is, outlives the sequence; or null:
    SessionShape shape;                      // of the session of its own that it makes
    int32_t start_token_id = 0;              // of its text, if that has a source
    BlockPool* pool = nullptr;
    int32_t max_draft = 0;            // tokens that may be drafted at once; 0: it never speculates
    std::span<const int32_t> prefix;  // blocks that hold the beginning of its text, if it has not
                                      // begun: their references are taken over
  };

  Sequence(QueuedRequest queued, const Setup& setup);

  uint64_t request_id() const { return request_.request_id; }

  const GenerateRequest& request() const { return request_; }

  const Session& session() const { return entry_ != nullptr ? *entry_->session : *own_session_; }

  // True if the text may begin with blocks of others: it has not begun, and nobody wants to know
  // what was thought of its tokens.
  static bool MayBeginShared(const GenerateRequest& request, const SessionEntry* entry);

  // Null if the request stands alone.
  SessionEntry* entry() const { return entry_; }

  // Blocks that it may still come to take.
  BlockCounts Growth() const;

  // A sibling waits until its leader has read what they share of the prompt, and then takes it
  // over. Requires that the leader has, that its window has not left it, and that this one has not
  // begun.
  const std::optional<uint64_t>& leader() const { return leader_; }

  void set_leader(std::optional<uint64_t> leader) { leader_ = leader; }

  bool HasReadShared() const { return prompt_left() <= num_behind_shared_; }

  void TakePrompt(const Sequence& leader, std::vector<BlockCopy>& copies);

  // Nothing is chosen: a given completion is read, or an embedding made.
  bool is_reading() const { return !request_.continuation.empty() || is_embedding(); }

  bool is_embedding() const { return request_.embedding.has_value(); }

  // A leader that only reads does not read its last row before all siblings have a place: none is
  // left to read the prompt again.
  void Hold(bool has_waiting_siblings) { is_held_ = has_waiting_siblings && !is_let_go_; }

  bool is_held() const { return is_held_; }

  // It is not to wait any more.
  void LetGo() {
    is_let_go_ = true;
    is_held_ = false;
  }

  // True if it goes on, or would with a place in the step.
  bool is_active() const { return !is_paused_ && !(is_held_ && prompt_left() <= 1); }

  absl::Time admitted_time() const { return admitted_time_; }

  bool has_finished() const { return has_finished_; }

  // The session's position but for rows whose token is not known yet.
  int64_t known_position() const;

  const Usage& usage() const { return usage_; }

  bool is_paused() const { return is_paused_; }

  void set_paused(bool paused) { is_paused_ = paused; }

  // Rows that are still to be prefilled: a session's pending token, the prompt, and a given
  // completion but for its last token.
  int64_t prompt_left() const;

  // Of these, the rows that the session's source takes, if an encoder is still to read the prompt.
  int64_t source_left() const;

  // Tokens of the request's own prompt that were prefilled: so far, and once the session's position
  // was `position`.
  int64_t num_prefilled() const { return NumPrefilled(session().position()); }

  int64_t NumPrefilled(int64_t position) const;

  // Tokens of the request's prompt among the rows, the first of which stands at a position.
  int64_t NumPromptTokens(const ScheduledRows& rows, int64_t first_position) const;

  SequenceView View() const;

  // What to draft for its next step; none if it is not worth it, or if what it has said is not
  // known yet. The draft stays as it is until the next call.
  std::optional<DraftJob> WantDraft(double row_share);

  // To be called once the draft is there. Under a constraint it ends before the first token that is
  // not allowed or ends the text, and what may come after each of the others is known from then on.
  void CheckDraft();

  // Makes room for the scheduled rows and returns their tokens, valid until the next call. The
  // token of a decode row that an earlier step is still to sample is named by ~ its place in that
  // step's results.
  std::span<const int32_t> Advance(const ScheduledRows& rows, int64_t step);
  // One more of the scheduled rows is sampled, as result `place` of its step.
  void ExpectToken(int32_t place);
  // True if the request keeps tokens from being sampled.
  bool ForbidsTokens() const;
  // True if a sampled token must be known before the next one can be chosen.
  bool NeedsEveryToken() const;

  // Which of those that want the device's memory comes first: the lower rank, at first the order of
  // arrival.
  int64_t rank() const { return rank_; }

  void set_rank(int64_t rank) {
    rank_ = rank;
    num_steps_left_out_ = 0;
  }

  // Steps since it last had the memory to take part.
  int64_t num_steps_left_out() const { return num_steps_left_out_; }

  void set_left_out(bool left_out) { num_steps_left_out_ = left_out ? num_steps_left_out_ + 1 : 0; }

  // Blocks that a step of at most `max_rows` rows may take.
  BlockCounts NewBlocks(int64_t max_rows) const;

  // What the last Advance dropped from the window, once.
  std::optional<ContextNoticeEvent> TakeNotice();

  // How the scheduled row behind `num_drafts` drafted ones is to be sampled. The row borrows from
  // the sequence until its step has landed.
  SampleRow RowToSample(int32_t num_drafts) const;
  // True if the row at a prefilled position says how likely a token is that was given (of the
  // prompt: not its last row), and the caller wants to know.
  bool IsScored(int64_t position) const;
  // How it is to be scored.
  SampleRow RowToScore(int64_t position) const;
  // True if what the row at a position came to is wanted for the embedding.
  bool IsPooled(int64_t position) const;
  // Place in the prompt of the token that the row at `position` scores; a given completion comes
  // behind it.
  int64_t ScoredIndex(int64_t position) const;

  // Takes the sampled token; the reason if it is the last. Rows that were launched after it and do
  // not follow from it are undone: those of other drafts, and all if it is the last.
  std::optional<FinishReason> TakeToken(const ScoredToken& token, absl::Time now);

  // The next token of the given completion, as its row has scored it.
  void TakeGiven(const ScoredToken& token, absl::Time now);
  // The next rows that IsPooled, [.., hidden_dim].
  void TakeHidden(std::span<const float> rows, size_t hidden_dim);
  // Of all rows. Empty if a value is not finite.
  std::vector<float> Embedding() const;

  // True if a row that follows from the token just taken is under way: the next one of the same
  // step, behind a draft that held, or that of a step launched ahead.
  bool ExpectsToken() const { return num_expected_ > 0; }

  AcceptedEvent Accepted() const;
  // Commits the turn.
  FinishedEvent Finish(FinishReason reason, absl::Time now);
  // Ends the turn of a session without a finish; it has an entry. `num_delivered` tokens of the
  // completion reached the client. The session's position then.
  int64_t Interrupt(OnInterrupt policy, int64_t num_delivered);

 private:
  Session& mutable_session() { return entry_ != nullptr ? *entry_->session : *own_session_; }

  void KeepTurn(int64_t num_tokens);
  void UndoTurn();
  void RollBackTo(int64_t position);
  std::vector<int32_t> TextBefore(int64_t max_tokens) const;
  void CountUsage();
  bool MayRunAhead() const;
  void UndoRows(int32_t token_id);
  void NoteToken(int32_t token_id);
  void VerifyDraft(int32_t token_id);
  int32_t NumDrafts() const;
  std::optional<FinishReason> ReasonToEnd(const ScoredToken& token, bool is_followed);
  bool IsStopToken(int32_t token_id) const;

  GenerateRequest request_;
  const int64_t arrival_;
  const absl::Time arrival_time_;
  const absl::Time admitted_time_;
  absl::Time first_token_time_;
  SessionEntry* const entry_;
  std::optional<Session> own_session_;   // if there is no entry
  const int64_t start_;                  // the session's position before the turn
  std::optional<int32_t> pending_;       // its last token, which the turn reads first
  std::vector<int32_t> rows_;            // the pending token, the prompt, what is given behind it
  int64_t num_given_ = 0;                // of these: of the completion
  int64_t num_behind_shared_ = 0;        // and behind what siblings take over
  std::vector<int32_t> stop_ids_;        // sorted
  std::optional<TokenHistory> history_;  // if a penalty needs it

  // What a constraint allows at a place of the text.
  struct Allowance {
    std::span<const uint64_t> token_ids;
    bool may_end = false;
  };

  struct Speculation {
    explicit Speculation(int32_t max) : max_draft(max) {}

    int32_t max_draft;
    RecentText text;
    DraftLength length;
    std::vector<int32_t> draft;         // for the next step
    std::vector<Allowance> allowances;  // of each place behind a token of the draft
  };

  std::optional<Speculation> speculation_;
  std::vector<int32_t> decode_ids_;  // of the rows of the last decode step
  int32_t num_unverified_ = 0;       // of these: the last ones, drafts whose tokens are not known
  ReplayDigest digest_;
  Usage usage_;
  int64_t last_step_ = 0;
  int64_t rank_;
  int64_t num_steps_left_out_ = 0;
  int64_t evicted_now_ = 0;  // by the last Advance
  int32_t stop_index_ = -1;
  int32_t next_token_ = 0;    // sampled, not yet in the rings; or ~place of one to be sampled
  int32_t num_expected_ = 0;  // rows launched whose tokens were not taken yet
  bool is_paused_ = false;
  bool is_held_ = false;
  bool is_let_go_ = false;
  bool has_finished_ = false;
  std::vector<double> pooled_;  // sums over the rows
  int64_t num_pooled_ = 0;
  std::optional<uint64_t> leader_;
};

}  // namespace ringserve
