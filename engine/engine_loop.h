// The engine without its thread: each Step admits, plans, runs the model once and tells the sink.
// Driven by Engine's thread, or by tests with a clock of their own.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>

#include "engine/cache/block_pool.h"
#include "engine/cache/kv_memory.h"
#include "engine/cache/prefix_cache.h"
#include "engine/cache/residency.h"
#include "engine/disk_tier.h"
#include "engine/drafter.h"
#include "engine/engine.h"
#include "engine/engine_config.h"
#include "engine/plan/prefill_budget.h"
#include "engine/plan/request_queue.h"
#include "engine/plan/scheduler.h"
#include "engine/plan/speculation.h"
#include "engine/request.h"
#include "engine/sequence.h"
#include "engine/session.h"
#include "engine/session_info.h"
#include "engine/session_store.h"
#include "engine/session_transfer.h"
#include "engine/snapshot.h"
#include "engine/step_batch.h"
#include "engine/step_runner.h"
#include "engine/waiting_call.h"

namespace ringserve {

class EngineLoop {
 public:
  struct Parts {
    StepRunner::Parts runner;
    SessionShape shape;
    EngineConfig::Scheduler scheduler;
    EngineConfig::Sessions sessions;
    int32_t device_blocks = 0;
    int32_t host_blocks = 0;         // 0: no host tier
    std::byte* host_pool = nullptr;  // that many blocks of host memory
    BlockPool::Tiers local_blocks;   // the same of local layers, where shape.has_local()
    std::byte* local_host_pool = nullptr;
    std::vector<int32_t> eos_token_ids;
    int32_t decoder_start_token_id = 0;  // where shape.has_source
    int32_t num_encoder_layers = 0;      // likewise
    Drafter* drafter = nullptr;          // null: nothing is drafted
    int32_t max_draft = 0;               // of one sequence in one step
    int64_t hidden_floats = 0;           // HiddenFloats
    std::function<absl::Time()> clock = absl::Now;
    // For the length of steps.
    std::function<std::chrono::steady_clock::time_point()> stopwatch =
        std::chrono::steady_clock::now;
    std::function<std::string()> make_session_id;  // SessionStore::Parts::make_id
    SnapshotKey snapshot_key;
    DiskTier::Parts disk;
  };

  // `sink` and what `parts` points to must outlive the loop.
  EngineLoop(const Parts& parts, EventSink& sink);
  ~EngineLoop();
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // Any thread. The request has passed CheckGenerateRequest. RESOURCE_EXHAUSTED; UNAVAILABLE after
  // a fault or once draining.
  absl::Status Submit(GenerateRequest request);

  // Any thread; the contracts are Engine's.
  void CreateSession(std::string owner, SessionOptions options, SessionReply reply);
  void GetSession(std::string owner, std::string id, SessionReply reply);
  void ListSessions(std::string owner, SessionListReply reply);
  void ForkSession(const std::string& owner,
                   const std::string& id,
                   std::optional<int64_t> position,
                   const CallOptions& options,
                   SessionReply reply);
  void RollbackSession(const std::string& owner,
                       const std::string& id,
                       int64_t position,
                       const CallOptions& options,
                       SessionReply reply);
  void CloseSession(std::string owner, std::string id, SessionReply reply);
  void ExportSession(const std::string& owner,
                     const std::string& id,
                     const CallOptions& options,
                     ExportReply reply);
  std::unique_ptr<SessionImport> ImportSession(std::string owner, const CallOptions& options);
  void CancelCall(uint64_t call_id);

  // Cancel, pause, drain, stop, wait.
  RequestQueue& queue() { return queue_; }

  // Any thread.
  EngineLoad load() const;
  absl::Duration step_age() const;

  // The rest: the engine thread.

  // False if there was nothing to run: then nothing changes before the queue has news or
  // NextDeadline() passes.
  bool Step();
  absl::Time NextDeadline() const;
  // Every live request fails with `status`.
  void EndAll(const absl::Status& status);

  // True if the blocks that sessions hold are those that the pool counts. O(blocks).
  bool PoolBalances() const;

  // After EndAll: sends what is in memory to the disk, the last used first, and waits for it.
  void SaveSessions();

  const BlockPool& pool() const { return pool_; }

 private:
  // Higher priority first, then arrival.
  using WaitingKey = std::pair<int32_t, int64_t>;

  // So many others at most are admitted before a request that is first of its priority in the
  // order of arrival.
  static constexpr int64_t kMaxOvertaken = 64;

  struct Waiting {
    QueuedRequest queued;
    int64_t num_overtaken = 0;
    SessionEntry* entry = nullptr;  // whose turn it is; null: the request stands alone
  };

  void TakeNews();
  void Apply(const RequestCommand& command);
  void Enqueue(QueuedRequest queued);
  void Expire(absl::Time now);
  // Blocks that the request may come to take, and whether all that are live can have theirs.
  BlockCounts GrowthOf(const Waiting& waiting) const;
  bool HasRoomFor(const BlockCounts& num_blocks) const;
  bool MayComeFree(const BlockCounts& num_blocks) const;
  // Adds the blocks that hold the beginning of the request's text, with a reference each.
  void FindPrefix(const Waiting& waiting, std::vector<int32_t>& blocks);
  // What the sequence has computed may be found by others from now on.
  void SharePrefix(const Sequence& sequence);
  std::string ScopeOf(const std::string& owner) const;
  BlockCounts NumUsedBlocks() const;
  // RESOURCE_EXHAUSTED if the pool cannot hold that many whatever else it holds.
  absl::Status CheckFits(const BlockCounts& num_blocks) const;
  absl::StatusOr<SessionEntry*> BeginTurn(const GenerateRequest& request);
  using WaitingIterator = std::map<WaitingKey, Waiting>::iterator;
  // Whose turn it is: of the highest priority, the owner with the fewest that run, by arrival.
  WaitingIterator MostUrgent();
  // Serves requests and calls until none is left, or one waits for room.
  void Admit(absl::Time now);
  // False if it waits for room.
  bool AdmitRequest(WaitingIterator most_urgent, absl::Time now);

  // A step that was launched. Its sequences may end before it lands; their results are nobody's.
  struct Flight {
    std::vector<ScheduledRows> plan;
    StepBatch batch;
    int64_t num_source_rows = 0;  // that an encoder reads, as much as its layers in this step are
    std::chrono::steady_clock::time_point launched;
  };

  // A prompt that an encoder reads, some layers a step. What lies between them is in the model, so
  // that there is one at a time.
  struct Encoding {
    uint64_t request_id = 0;
    int32_t num_layers = 0;  // that have run
  };

  // Which layers run next, while someone decodes: those of `view`.
  struct EncoderSlice {
    size_t view = 0;
    int32_t end_layer = 0;
  };

  // Begins or goes on to encode a prompt in parts, if one is due that takes more than
  // `max_prefill_rows`. Pauses the views of those who must wait for it and, but for its last
  // layers, its own. Empty: nothing is encoded in parts.
  std::optional<EncoderSlice> PlanEncoding(int32_t max_prefill_rows);
  // After the step was planned: what of the slice is in it.
  void AddEncoding(const EncoderSlice& slice, Flight& flight);
  std::optional<size_t> FindEncoding();

  // Asks for tokens that the next step is to verify.
  absl::Status DraftTokens();
  // Siblings take over what their leader has read; one whose leader has ended before reads the
  // prompt in its place.
  void FindLeaders();
  void ForkSiblings(const Sequence& leader);
  // Whose siblings are not all in the batch waits with its last row, if it only reads.
  void HoldLeaders();
  // None does any more, unless others will end and make room.
  void LetLeadersGo();
  void ForkPrompt(const Sequence& leader, Sequence& sibling);
  Sequence* FindRunning(uint64_t request_id) const;
  // Ends everything if a copy has failed, and says so.
  // Leaves out of this step who does not fit on the device beside the more urgent.
  void FitDevice(int32_t max_prefill_rows);
  // Builds the batch and brings its blocks to the device.
  absl::Status BuildBatch(Flight& flight);
  bool FaultIfNotCopied();
  bool RunStep();
  // True if the next step can be launched before the results of the one under way are known.
  bool MayRunAhead() const;
  bool Launch();
  // Rows of prompts that the next step may take.
  int32_t MaxPrefillRows() const;
  // What a step that has landed teaches about the next ones.
  void LearnCosts(const Flight& flight, double step_ms);
  // Waits for the step under way, if any, and tells what came of it.
  void Land();
  void Land(Flight& flight);
  void Retire(Flight& flight, absl::Time now);
  // What came of rows that were only read.
  void RetireReading(Flight& flight,
                     size_t index,
                     std::unique_ptr<Sequence>& sequence,
                     absl::Time now);
  // False if a result is not finite.
  bool TellReading(Flight& flight, size_t index, Sequence& sequence, absl::Time now);
  // Null if the sequence has ended.
  std::unique_ptr<Sequence>* Find(const Flight& flight, size_t index);
  // Returns false if the sequence has failed.
  bool TellPromptLogprobs(Flight& flight, size_t index, Sequence& sequence, size_t& next_result);
  // What the rows of one sequence in one step came to, as far as drafts held.
  void TellTokens(std::unique_ptr<Sequence>& sequence,
                  std::span<ScoredToken> results,
                  absl::Time now);
  void TellToken(std::unique_ptr<Sequence>& sequence, ScoredToken& result, absl::Time now);
  void Fault(const absl::Status& status);

  // True if a cancel of the request has come and was not applied yet.
  bool HasCancel(uint64_t request_id) const;

  static absl::Status Cancelled() { return absl::CancelledError("the request was cancelled"); }

  // Both release what the request holds; the entry is removed by the caller.
  void FailRunning(std::unique_ptr<Sequence>& sequence, absl::Status status);
  void FailRunning(std::unique_ptr<Sequence>& sequence, absl::Status status, OnInterrupt policy);
  // The model's logits leave no choice.
  void FailNoToken(std::unique_ptr<Sequence>& sequence);
  void FailWaiting(const Waiting& waiting, absl::Status status);
  void End(std::unique_ptr<Sequence>& sequence);
  void RemoveEnded();
  template <typename Event>
  void Tell(uint64_t request_id, Event event);
  void Publish();
  void UpdateLoad();
  // Sessions in files: those that calls or turns want come back, one at a time.
  DiskTier::Hooks DiskHooks();
  // True if who wants it waits for the disk, whatever room there is.
  bool IsOnItsWay(const SessionEntry& entry) const;
  bool IsOnItsWay(const Waiting& waiting) const;
  // In memory, the least urgent first.
  std::vector<SessionEntry*> WaitingSessions(const SessionEntry* but) const;
  void FailWhoWaits(const SessionEntry& entry, const absl::Status& status);
  // As Ask, of a call that needs blocks in memory, its session's or more of them: it waits for both
  // if it has to.
  template <typename Reply, typename Call>
  void AskForBlocks(WaitingCall asked, Reply reply, Call call);
  void BeginCall(WaitingCall call);
  absl::Status CheckMayWait(const WaitingCall& call) const;
  // The session that the call needs, if it is not in memory and the call is not to be refused.
  SessionEntry* AwayFor(const WaitingCall& call) const;
  // Of those that do not wait for the disk alone.
  std::list<WaitingCall>::iterator FirstCall();
  // None: it was answered; else the blocks that it lacks.
  BlockCounts Attempt(const WaitingCall& call, bool may_take_room);
  // False if it waits for room.
  bool ServeCall(std::list<WaitingCall>::iterator at);
  void RetryCalls(const SessionEntry& entry);
  void FailCalls(const std::function<bool(const WaitingCall&)>& is_one, const absl::Status& status);
  void FailCallsOf(const SessionEntry& entry, const absl::Status& status);
  // Sessions that leave or arrive.
  struct ExportTicket;
  class Export;
  class Import;
  absl::StatusOr<ExportTicket> BeginExport(const std::string& owner, const std::string& id);
  absl::StatusOr<std::string> ReadBlocks(uint64_t transfer_id, int64_t first, int64_t count);
  absl::StatusOr<uint64_t> BeginImport(const std::string& owner, const Snapshot& snapshot);
  absl::Status WriteBlocks(uint64_t transfer_id, int64_t first, const std::string& bytes);
  absl::StatusOr<SessionInfo> FinishImport(uint64_t transfer_id);
  void PostEndTransfer(uint64_t transfer_id);
  // Calls `reply` with what `call` returns, once load() tells of it; at once if it is refused.
  template <typename Reply, typename Call>
  void Ask(Reply reply, Call call);

  const Parts parts_;
  EventSink& sink_;
  RequestQueue queue_;
  BlockPool pool_;
  KvMemory memory_;
  PrefixCache prefixes_;
  Residency residency_;
  SessionStore sessions_;
  DiskTier disk_;
  std::list<WaitingCall> calls_;  // by arrival
  int64_t last_arrival_ = -1;     // of a request
  bool is_short_ = false;         // somebody waits for room, as of the last step
  bool may_take_room_ = true;     // the call that is attempted
  StepRunner runner_;
  const bool runs_ahead_;
  PrefillBudget prefill_budget_;
  RowCost row_cost_;
  std::map<WaitingKey, Waiting> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // null: has ended in this step
  std::vector<TokenEvent> events_;
  std::vector<std::function<void()>> replies_;
  bool has_ended_ = false;  // some request, and the queue is to know once it was told

  // Reused from step to step.
  News news_;
  std::vector<SequenceView> views_;
  std::optional<Encoding> encoding_;
  std::vector<DraftJob> drafts_;
  std::vector<int32_t> prefix_;
  std::unordered_map<std::string, int64_t> num_running_of_;  // by owner
  std::vector<int32_t> blocks_;
  std::vector<size_t> order_;
  int64_t next_front_rank_ = -1;
  std::array<Flight, 2> flights_;
  Flight* flying_ = nullptr;  // one of flights_; null: no step is under way
  std::chrono::steady_clock::time_point last_landing_;

  std::atomic<int64_t> step_began_ns_ = 0;  // of the steady clock; 0: no step is under way
  absl::Status copied_;                     // the first error of a copy in this step
  EngineLoad counters_;
  mutable absl::Mutex load_mutex_;
  EngineLoad load_ ABSL_GUARDED_BY(load_mutex_);
};

template <typename Event>
void EngineLoop::Tell(uint64_t request_id, Event event) {
  events_.push_back({request_id, std::move(event)});
}

template <typename Reply, typename Call>
void EngineLoop::Ask(Reply reply, Call call) {
  const absl::Status posted = queue_.Post([this, reply, call = std::move(call)] {
    replies_.push_back([reply, answer = call()]() mutable { reply(std::move(answer)); });
  });
  if (!posted.ok()) {
    reply(posted);
  }
}

template <typename Reply, typename Call>
void EngineLoop::AskForBlocks(WaitingCall asked, Reply reply, Call call) {
  asked.attempt = [this, reply, call = std::move(call)] {
    auto answer = call();
    const BlockCounts num_lacking = sessions_.TakeShortage();
    if (num_lacking.total() == 0) {
      replies_.push_back([reply, answer = std::move(answer)]() mutable { reply(answer); });
    }
    return num_lacking;
  };
  asked.fail = [this, reply](const absl::Status& status) {
    replies_.push_back([reply, status] { reply(status); });
  };
  const absl::Status posted = queue_.Post([this, asked = std::move(asked)] { BeginCall(asked); });
  if (!posted.ok()) {
    reply(posted);
  }
}

}  // namespace ringserve
