// The door of the engine: a model, its memory and one thread that runs it. Requests come in from
// any thread, events go out through the sink on the engine thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <absl/time/time.h>

#include "engine/base/status.h"
#include "engine/engine_config.h"
#include "engine/memory_plan.h"
#include "engine/request.h"
#include "engine/session_info.h"
#include "engine/session_transfer.h"

namespace ringserve {

class Backend;

// A snapshot for Control.GetLoad and metrics.
struct EngineLoad {
  int64_t running = 0;  // sequences admitted
  int64_t queued = 0;
  int64_t max_batch = 0;
  int64_t max_queue = 0;
  int64_t sessions = 0;
  int64_t waiting_calls = 0;  // on sessions, that wait for memory or the disk
  int64_t device_blocks = 0;
  int64_t device_blocks_free = 0;  // places that hold nothing, or only what can be given up
  int64_t host_blocks = 0;
  int64_t host_blocks_free = 0;  // of device_blocks_free and these, one is never given
  int64_t spilled_blocks = 0;    // copied to the host since start
  int64_t restored_blocks = 0;   // copied back since start
  int64_t prefix_blocks =
      0;              // that the prefix cache knows, in use or not; the others count as free
  int64_t steps = 0;  // since start, as all below
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;  // Usage::cached_tokens of all that was admitted
  int64_t reprefilled_tokens = 0;
  int64_t evicted_tokens = 0;
  int64_t drafted_tokens = 0;  // Usage's, of all
  int64_t accepted_tokens = 0;
  int64_t tiles_dense = 0;
  int64_t tiles_triangle = 0;
  int64_t tiles_skipped = 0;
  int64_t block_loads = 0;
  absl::Duration kernel_time;  // inside backend ops
  absl::Duration step_time;    // inside steps, backend ops included
  DiskCounts disk;
  int64_t refused_files = 0;  // found at start, and no sound session of this model
  bool healthy = true;        // false: the device failed; nothing is taken any more
};

class Engine {
 public:
  // Loads the model (reporting progress in (0, 1] to `progress` if not null), allocates everything
  // that the plan says, and starts the engine thread. `sink` must outlive the engine.
  // RESOURCE_EXHAUSTED, before anything is loaded, if the device has less memory than the plan.
  struct Options {
    EngineConfig config;
    // Empty: MakeBackend, as the config says.
    std::function<absl::StatusOr<std::unique_ptr<Backend>>()> make_backend = {};
    void (*progress)(double fraction, void* context) = nullptr;
    void* progress_context = nullptr;
  };

  static absl::StatusOr<std::unique_ptr<Engine>> Create(Options options, EventSink& sink);
  // What Create would allocate, from the config and the folder's config.json alone.
  static absl::StatusOr<MemoryPlan> Plan(const EngineConfig& config);
  // Stops at once: live requests end CANCELLED before it returns.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Any thread. OK means that exactly one FinishedEvent or FailedEvent will follow for the request
  // and for each of its siblings. Otherwise nothing follows: INVALID_ARGUMENT (also: more siblings
  // than queue and batch hold together), RESOURCE_EXHAUSTED
  // (queue full, or more than the pools can ever hold), UNAVAILABLE (draining).
  absl::Status Submit(GenerateRequest request);
  // Any thread; waits for nobody. What Submit would say of the queue now: for who wants to know
  // before a prompt is read, cut and registered.
  absl::Status CheckQueue() const;
  // Any thread; unknown ids are ignored (the request may just have ended). The request ends
  // CANCELLED, its blocks free, at the next step.
  void Cancel(uint64_t request_id);

  // Sessions. Any thread. `reply` is called exactly once: on the engine thread at the end of a step
  // (it must not block), or at once on the calling thread if the call is refused:
  // RESOURCE_EXHAUSTED (too many calls wait), UNAVAILABLE (draining, stopped). `owner` is the
  // caller's identity (GenerateRequest::owner); a session of another owner is answered as one that
  // does not exist: NOT_FOUND. A turn is a GenerateRequest with a SessionTurn; one session runs one
  // turn at a time.

  // Where memory is short, Fork, Rollback and Import wait for it in the order in which they came,
  // between requests, as long as more can come free: something runs or is on its way to the disk.
  // So does what needs a session that is on the disk. A call that waits ends DEADLINE_EXCEEDED at
  // its deadline, CANCELLED by CancelCall, ABORTED if a turn of its session begins meanwhile, and
  // RESOURCE_EXHAUSTED if sessions that stay where they are hold the memory, or
  // scheduler.max_queue calls wait already.

  // INVALID_ARGUMENT (a bad size), RESOURCE_EXHAUSTED (sessions.max_sessions).
  void CreateSession(std::string owner, SessionOptions options, SessionReply reply);
  void GetSession(std::string owner, std::string id, SessionReply reply);
  // The owner's sessions in the order of creation.
  void ListSessions(std::string owner, SessionListReply reply);
  // A session of its own that continues from here, or from `position`: it refers to the same full
  // blocks, so that it costs at most two blocks however long the text is. ABORTED (busy),
  // INVALID_ARGUMENT (position is not in [rollback_floor, position of the session]),
  // RESOURCE_EXHAUSTED (sessions.max_sessions, memory).
  void ForkSession(const std::string& owner,
                   const std::string& id,
                   std::optional<int64_t> position,
                   const CallOptions& options,
                   SessionReply reply);
  // Makes the session's text end at `position`. ABORTED (busy), INVALID_ARGUMENT (position is not
  // in [rollback_floor, position of the session]), RESOURCE_EXHAUSTED (memory, for a copy of a
  // block that is shared).
  void RollbackSession(const std::string& owner,
                       const std::string& id,
                       int64_t position,
                       const CallOptions& options,
                       SessionReply reply);
  // The session as a snapshot (session_transfer.h). ABORTED (busy), RESOURCE_EXHAUSTED (too many
  // are on their way).
  void ExportSession(const std::string& owner,
                     const std::string& id,
                     const CallOptions& options,
                     ExportReply reply);
  // A new session of `owner` from a snapshot that is to come; the options are those of each piece.
  std::unique_ptr<SessionImport> ImportSession(std::string owner, const CallOptions& options);
  // Whoever's call it is that waits under that id; unknown ids are ignored.
  void CancelCall(uint64_t call_id);
  // Frees what the session holds. If it is busy its turn ends CANCELLED. Answers what it was.
  void CloseSession(std::string owner, std::string id, SessionReply reply);

  // A paused sequence keeps its memory and is left out of steps.
  void SetPaused(uint64_t request_id, bool paused);

  // Refuses new requests; live ones go on until they end or `deadline` passes, then they end
  // UNAVAILABLE. Returns when none is left.
  void Drain(absl::Time deadline);

  EngineLoad load() const;
  // For how long the step under way has been going on; zero between steps. Any thread.
  absl::Duration step_age() const;
  const EngineConfig& config() const;
  const MemoryPlan& memory_plan() const;
  const ModelConfig& model_config() const;
  RequestLimits limits() const;
  std::string device_description() const;

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace ringserve
