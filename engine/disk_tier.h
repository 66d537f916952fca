// Where idle sessions go when memory is short: to a file each, and back when they are wanted. The
// disk is waited for on other threads; between two pieces the engine thread copies some blocks.
//
//   memory --- spill ---> file    the session stays in memory until its file has its name; a turn
//                                 that comes before takes it back, and the file is given up
//   file --- restore ---> memory  the file is gone, for good, before a turn may change the session:
//                                 what a process that was killed leaves is never an old state
//
// One session is on its way in each direction at a time, a piece of it in a buffer of the plan's. A
// full disk is a state: sessions stay in memory, and who needs memory is refused.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/time/time.h>

#include "engine/base/status.h"
#include "engine/cache/block_pool.h"
#include "engine/cache/kv_memory.h"
#include "engine/io_queue.h"
#include "engine/session_files.h"
#include "engine/session_info.h"
#include "engine/session_store.h"
#include "engine/snapshot.h"

namespace ringserve {

// The engine thread.
class DiskTier {
 public:
  struct Parts {
    SessionFiles* files = nullptr;  // null: there is no disk tier
    int64_t max_bytes = 0;
    IoQueue* reads = nullptr;
    IoQueue* writes = nullptr;
    // Of kNumPieces pieces: one that is written, and two that are read, so that the disk has work
    // while the other is copied. Used until the queues have ended.
    std::span<std::byte> buffers = {};
  };

  static constexpr int64_t kNumPieces = 3;

  // A piece of a session: some MiB of blocks with their checksums, or one block if that is more.
  static int64_t PieceBytes(const KvLayout& kv);
  // As large as a piece of blocks of either size.
  static int64_t PieceBytes(const KvLayout& kv, const KvLayout& local_kv);

  struct Hooks {
    std::function<absl::Time()> clock;
    // Any thread: `call` is to be made on the engine thread.
    std::function<void(std::function<void()>)> post;
    // A copy of blocks failed: the device is lost.
    std::function<void(absl::Status)> on_fault;
    // The session is in memory again.
    std::function<void(SessionEntry&)> on_back;
    // Its file cannot be read or removed now (UNAVAILABLE), and it stays on the disk: to be told to
    // who waits for it.
    std::function<void(SessionEntry&, absl::Status)> on_unread;
    // Its file is damaged or gone: the same, and it is to be erased.
    std::function<void(SessionEntry&, absl::Status)> on_lost;
  };

  // All must outlive it, the queues' last work included.
  DiskTier(const Parts& parts,
           const SnapshotKey& key,
           Hooks hooks,
           SessionStore& sessions,
           KvMemory& memory,
           BlockPool& pool);

  // Before anything else: adds the sessions that an earlier process left.
  void AddFound(std::vector<SessionFiles::Found> found);

  // True if some session is on its way out, now at the latest: there will be more room. Idle ones
  // go first, longest unused first, then `others`, which are in memory and have a turn that waits;
  // `kept`, if not null, stays.
  bool MakeRoom(std::span<SessionEntry* const> others, const SessionEntry* kept = nullptr);

  // False: there is none, or it was full when it was asked last.
  bool MayTakeMore() const { return parts_.files != nullptr && !counts_.is_full; }

  // Sends the session away. False if the disk has no room.
  bool Spill(SessionEntry& entry);

  bool is_spilling() const { return spill_.has_value(); }

  // The session is about to change: it is not to leave.
  void Keep(const SessionEntry& entry);

  // The device is lost, and what sessions have there: nothing leaves any more.
  void StopSpilling();

  bool is_restoring() const { return restore_.has_value(); }

  // Requires that the session is on the disk, none is on its way back, and there is room for its
  // blocks.
  void Restore(SessionEntry& entry);

  // Blocks that a session on its way back is still to take.
  BlockCounts num_reserved() const {
    return restore_.has_value() ? restore_->num_reserved : BlockCounts();
  }

  // The entry is about to be erased: its file goes too.
  void Forget(const SessionEntry& entry);

  const DiskCounts& counts() const { return counts_; }

 private:
  struct Leaving {
    std::string id;
    std::shared_ptr<SessionFiles::Writer> file;
    BlockCounts num_blocks;
    int64_t next_block = 0;
    int64_t bytes = 0;
    bool is_cancelled = false;
    bool is_committing = false;
  };

  struct Returning {
    std::string id;
    std::shared_ptr<SessionFiles::Reader> file;
    uint64_t serial = 0;  // told from those before it
    BlockCounts num_reserved;
    BlockCounts num_blocks;
    int64_t next_read = 0;   // block that no read was asked for
    int64_t next_block = 0;  // that is not in memory
    int64_t bytes = 0;
  };

  // Some blocks of one group that follow one another in a file.
  struct Piece {
    int64_t first = 0;  // counted over both groups
    int64_t count = 0;
    int64_t index = 0;  // of the piece in the file
    size_t block_bytes = 0;

    // Of a block in a buffer, and in the file.
    size_t stride() const { return block_bytes + kBlockChecksumBytes; }

    size_t bytes() const { return static_cast<size_t>(count) * stride(); }
  };

  int64_t BlocksPerPiece(BlockGroup group) const {
    return static_cast<int64_t>(parts_.buffers.size() / kNumPieces /
                                (memory_.block_bytes(group) + kBlockChecksumBytes));
  }

  // The piece that begins with block `first`; without blocks if that is the end.
  Piece PieceFrom(int64_t first, const BlockCounts& num_blocks) const;

  std::span<std::byte> write_buffer() const {
    return parts_.buffers.first(parts_.buffers.size() / kNumPieces);
  }

  std::span<std::byte> read_buffer(const Piece& piece) const {
    const auto index = static_cast<size_t>(1 + piece.index % 2);
    const size_t bytes = parts_.buffers.size() / kNumPieces;
    return parts_.buffers.subspan(index * bytes, bytes);
  }

  // Writes what `append` says, and goes on.
  using Append = std::function<absl::Status(SessionFiles::Writer& file)>;
  void Write(Append append);
  absl::Status AppendBlocks(SessionFiles::Writer& file, const Piece& piece) const;
  void WriteNext(SessionEntry& entry);
  void OnWritten(const absl::Status& status);
  void OnCommitted(const absl::Status& status);
  void GiveUpSpill(const absl::Status& status);
  // The entry that is on its way back, if the read was well and it is still there; else null, and
  // what follows from that was done.
  SessionEntry* Returned(const absl::Status& status);
  absl::StatusOr<Snapshot> ReadBeginning(SessionFiles::Reader& file, int64_t num_bytes) const;
  void OnBeginning(absl::StatusOr<Snapshot> snapshot);
  absl::Status ReadBlocks(SessionFiles::Reader& file, const Piece& piece) const;
  // Has the next piece read, if there is one.
  void ReadNext();
  void OnRead(uint64_t serial, const absl::Status& status, const Piece& piece);
  void RemoveRestored();
  absl::Status Begin(SessionEntry& entry, const Snapshot& snapshot);
  void WriteBlocks(const SessionEntry& entry, const Piece& piece);
  void OnRemoved(const absl::Status& removed);
  void PutBack(SessionEntry& entry, const absl::Status& why);
  void Lose(SessionEntry& entry, const absl::Status& why);
  void RemoveFile(const std::string& id);

  const Parts parts_;
  const SnapshotKey& key_;
  const Hooks hooks_;
  SessionStore& sessions_;
  KvMemory& memory_;
  BlockPool& pool_;
  std::optional<Leaving> spill_;
  std::optional<Returning> restore_;
  uint64_t last_serial_ = 0;     // of restore_
  std::vector<int32_t> blocks_;  // reused
  absl::Time full_until_ = absl::InfinitePast();
  DiskCounts counts_;
};

}  // namespace ringserve
