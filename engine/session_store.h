// The sessions of an engine, by id and owner: made, found, rolled back, closed, forgotten when idle
// for too long. Knows blocks, not steps: EngineLoop runs their turns.
//
// A session of another owner is answered as one that does not exist (NOT_FOUND): ids tell nothing
// to strangers. One that has a turn queued or running is busy: ABORTED for all that would change
// it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <absl/time/time.h>

#include "engine/base/status.h"
#include "engine/cache/block_pool.h"
#include "engine/cache/kv_memory.h"
#include "engine/engine_config.h"
#include "engine/request.h"
#include "engine/session.h"
#include "engine/session_info.h"
#include "engine/snapshot.h"

namespace ringserve {

enum class Residence {
  kMemory,
  kDisk,    // in a file
  kMoving,  // its file is being named, or read: what wants the session waits
};

// What is known of a session whose rings are in a file.
struct StoredSession {
  SessionImage image;  // without its token ids
  SessionShape shape;
  int64_t bytes = 0;  // of the file
};

// One session, between and during its turns.
struct SessionEntry {
  SessionEntry(const SessionShape& shape, BlockPool& pool)
      : session(std::make_unique<Session>(shape, kEndless, pool)) {}

  // Null: of a session that is stored.
  explicit SessionEntry(std::unique_ptr<Session> made) : session(std::move(made)) {}

  static constexpr int64_t kEndless = std::numeric_limits<int64_t>::max();

  bool is_busy() const { return request_id.has_value() || transfer_id.has_value(); }

  // Tokens of the text. The last one of an answer is part of it before its keys are in the rings.
  int64_t position() const {
    const int64_t end = session != nullptr ? session->position() : stored->image.position;
    return end + (pending_token.has_value() ? 1 : 0);
  }

  const SessionShape& shape() const {
    return session != nullptr ? session->shape() : stored->shape;
  }

  int64_t rollback_floor() const {
    return session != nullptr ? session->rollback_floor()
                              : std::max(stored->image.rollback_floor, stored->image.local_floor);
  }

  // In memory or in its file.
  BlockCounts num_blocks() const {
    return session != nullptr ? session->num_blocks()
                              : NumBlocks(stored->image, stored->shape.block_size);
  }

  // References that it holds in the pool.
  BlockCounts num_held() const {
    return session != nullptr ? session->num_blocks() : BlockCounts();
  }

  std::string id;
  std::string owner;
  int64_t serial = 0;                   // order of creation
  std::unique_ptr<Session> session;     // null: its rings are in a file
  std::optional<StoredSession> stored;  // there while it has a file
  Residence residence = Residence::kMemory;
  std::optional<int32_t> pending_token;
  std::optional<uint64_t> request_id;   // of the turn that is queued or running
  std::optional<uint64_t> transfer_id;  // under which it is read or written
  bool is_arriving = false;             // and not there yet: nobody finds it
  bool is_foreign = false;              // Snapshot::is_foreign
  absl::Duration idle_timeout;
  absl::Duration arrives_with_timeout;  // idle_timeout once it has arrived
  absl::Time created;
  absl::Time last_used;
  absl::Time charged;  // what it held is, up to here
  SessionCounters counters;
};

// One thread.
class SessionStore {
 public:
  struct Parts {
    SessionShape shape;  // of a session that asks for no sizes of its own
    EngineConfig::Sessions limits;
    // True if so many blocks more can be taken now and all that was admitted still gets its own.
    std::function<bool(const BlockCounts& num_blocks)> has_room;
    // Unguessable and unique; empty: 128 random bits.
    std::function<std::string()> make_id;
    // Now; empty: nothing is charged.
    std::function<absl::Time()> clock = {};
    std::function<void(const std::string& owner, const HeldMemory& held)> on_charge = {};
    // The entry is about to go.
    std::function<void(SessionEntry&)> on_erase = {};
  };

  // `pool` and `memory` must outlive the store.
  SessionStore(Parts parts, BlockPool& pool, KvMemory& memory);

  // INVALID_ARGUMENT (a bad size), RESOURCE_EXHAUSTED (max_sessions), FAILED_PRECONDITION (the
  // model has an encoder).
  absl::StatusOr<SessionInfo> Create(const std::string& owner,
                                     const SessionOptions& options,
                                     absl::Time now);
  absl::StatusOr<SessionInfo> Get(const std::string& owner, const std::string& id);
  // In the order of creation.
  std::vector<SessionInfo> List(const std::string& owner);
  // A new session of the same owner that stands where this one does, or stood at `position`.
  // RESOURCE_EXHAUSTED (max_sessions, memory), INVALID_ARGUMENT outside [rollback_floor, position].
  absl::StatusOr<SessionInfo> Fork(const std::string& owner,
                                   const std::string& id,
                                   std::optional<int64_t> position,
                                   absl::Time now);
  // Makes the text end at `position`. INVALID_ARGUMENT outside [rollback_floor, position];
  // RESOURCE_EXHAUSTED if there is no memory for a copy of a shared block.
  absl::StatusOr<SessionInfo> Rollback(const std::string& owner,
                                       const std::string& id,
                                       int64_t position,
                                       absl::Time now);
  // The rings of a session that asks for that buffer_size. INVALID_ARGUMENT.
  absl::StatusOr<SessionShape> ShapeOf(int64_t buffer_size) const;

  // A session that is to be read, block by block, by the name of its transfer: busy until that
  // ends.
  absl::StatusOr<SessionEntry*> BeginExport(const std::string& owner, const std::string& id);
  // A session that is to be written. Nobody finds it before FinishImport; without a call for
  // kMaxImportPause it is erased. It gets an id and counters of its own. RESOURCE_EXHAUSTED
  // (max_sessions, memory). Requires that the snapshot fits (SnapshotReader).
  absl::StatusOr<SessionEntry*> BeginImport(const std::string& owner,
                                            const Snapshot& snapshot,
                                            absl::Time now);
  // Null if there is none of that name: the session was closed, or has expired.
  SessionEntry* FindTransfer(uint64_t transfer_id) const;
  SessionInfo FinishImport(SessionEntry& entry, absl::Time now);
  // Keeps an import from expiring.
  void TouchImport(SessionEntry& entry, absl::Time now);
  // The session is as idle as before, or erased if it was arriving.
  void EndTransfer(SessionEntry& entry);
  // What is to be known of the entry beside its blocks. Requires that no turn is in progress.
  static Snapshot SnapshotOf(const SessionEntry& entry);

  // Whoever's it is. Null if there is none.
  SessionEntry* FindById(const std::string& id) const;
  // A session that lies in a file.
  void AddStored(Snapshot snapshot, int64_t bytes);
  // It lies in a file from now on, and its blocks are free.
  void Store(SessionEntry& entry, int64_t bytes);
  // Those in memory that are not busy, longest unused first.
  std::vector<SessionEntry*> LeastRecentlyUsed() const;

  bool has_transfers() const { return !transfers_.empty(); }

  static constexpr size_t kMaxTransfers = 16;  // each holds a block or a MiB
  static constexpr absl::Duration kMaxImportPause = absl::Minutes(1);

  // Null or an entry that lives until Erase or Expire.
  SessionEntry* Find(const std::string& owner, const std::string& id) const;
  // Requires that it has no turn.
  void Erase(SessionEntry& entry);

  // Marks the session busy with the request, which has a turn. Errors as at SessionTurn.
  absl::StatusOr<SessionEntry*> BeginTurn(const GenerateRequest& request);
  // The turn has ended, committed or not; its effect on the session has been made.
  void EndTurn(SessionEntry& entry, absl::Time now);

  // Erases what has been idle for too long.
  void Expire(absl::Time now);
  // InfiniteFuture if nothing will expire.
  absl::Time next_expiry() const;

  int64_t size() const { return static_cast<int64_t>(entries_.size()); }

  // What `session` held for so long.
  HeldMemory HeldFor(const Session& session, absl::Duration duration) const;
  // Charges the entry with what it held since it was charged last.
  void Charge(SessionEntry& entry);

  // Blocks for want of which a call was answered RESOURCE_EXHAUSTED since this was asked last;
  // none: none was. Nothing has changed then, and the same call may find more room.
  BlockCounts TakeShortage() { return std::exchange(shortage_, {}); }

  // RESOURCE_EXHAUSTED if so many transfers beside those that have begun are as many as may be.
  absl::Status CheckTransfers(size_t num_waiting = 0) const;

  // The first error of a copy since the last call: then blocks do not hold what they are to hold,
  // and the device is lost.
  absl::Status TakeCopyStatus();

  // Every reference that sessions hold.
  void CollectBlocks(std::vector<int32_t>& blocks) const;

 private:
  absl::StatusOr<SessionEntry*> FindIdle(const std::string& owner, const std::string& id) const;
  SessionInfo Add(std::unique_ptr<SessionEntry> added, const std::string& owner, absl::Time now);
  void BeginTransfer(SessionEntry& entry);
  absl::Status CheckCount() const;
  absl::Status CheckRoom(const BlockCounts& num_blocks);
  absl::Status CopyBlocks(const std::vector<BlockCopy>& copies);
  SessionInfo InfoOf(const SessionEntry& entry) const;
  // Files an idle entry under when it expires; takes a busy one out.
  void File(SessionEntry& entry);
  void Unfile(SessionEntry& entry);

  absl::Status copy_status_;
  BlockCounts shortage_;
  const Parts parts_;
  BlockPool& pool_;
  KvMemory& memory_;
  int64_t next_serial_ = 0;
  std::unordered_map<std::string, std::unique_ptr<SessionEntry>> entries_;
  std::map<std::pair<absl::Time, int64_t>, SessionEntry*> expiries_;  // of idle ones, by serial
  uint64_t last_transfer_id_ = 0;
  std::unordered_map<uint64_t, SessionEntry*> transfers_;
};

}  // namespace ringserve
