// A session as bytes: for a file, or for a client who takes it elsewhere.
//
//   head    of fixed length: magic, version, which model and backend, how the rings stand,
//   counters;
//           its checksum
//   text    the token ids of the window, id and owner of the session (empty in what a client
//           gets); their checksum
//           of a model with a local ring this begins with how that stands (version 2; others are
//           of version 1)
//   blocks  in the order of Session::CollectBlocks, each followed by its checksum, which knows its
//           place
//
// Integers are little-endian. Nothing follows the last block: a snapshot that was cut, went on, or
// has a changed bit anywhere is DATA_LOSS. What is sound but of another model, another backend (its
// bits differ) or another version is FAILED_PRECONDITION. Nothing that was read is believed: what
// comes out of a SnapshotReader fits the rings that it was made for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/time/time.h>

#include "engine/base/status.h"
#include "engine/session.h"
#include "engine/session_info.h"
#include "kernels/kv_view.h"

namespace ringserve {

// Where a snapshot was made and can be read.
struct SnapshotKey {
  uint64_t model = 0;   // IdentifyModel, and what else decides about keys and values
  std::string backend;  // at most 63 bytes: device and kernels, whose bits differ from others'
  KvLayout kv;
  int32_t vocab_size = 0;
  // How texts go on at the end of a context.
  bool slides = false;
  int32_t sink_size = 0;
  int64_t window = 0;
  KvLayout local_kv = {};  // no layers: there is no local ring
  int64_t local_window = 0;

  bool has_local() const { return local_window > 0; }

  const KvLayout& layout(BlockGroup group) const {
    return group == BlockGroup::kGlobal ? kv : local_kv;
  }
};

// A session but for the bytes of its blocks.
struct Snapshot {
  SessionImage image;
  std::optional<int32_t> pending_token;
  absl::Duration idle_timeout;
  absl::Time created;
  absl::Time last_used;
  SessionCounters counters;
  // Somebody else made the bytes, or had them: what they hold may not become another's.
  bool is_foreign = false;
  std::string id;
  std::string owner;
};

// Head and text.
std::string SnapshotBeginning(const SnapshotKey& key, const Snapshot& snapshot);
// What follows block `index`.
std::string BlockChecksum(std::span<const std::byte> block, int64_t index);
// A block and what follows it. DATA_LOSS.
absl::Status CheckBlock(std::span<const std::byte> block_and_checksum, int64_t index);
inline constexpr size_t kBlockChecksumBytes = 8;
// Of so many blocks with their checksums.
int64_t BlocksBytes(const SnapshotKey& key, const BlockCounts& num_blocks);
// Of the whole.
int64_t SnapshotBytes(const SnapshotKey& key, const Snapshot& snapshot);

// Takes a snapshot in pieces of any size, and gives what is whole. Holds a block and a piece at
// most. After an error nothing more comes.
class SnapshotReader {
 public:
  // The rings of a session that asks for that SessionOptions::buffer_size.
  using ShapeOf = std::function<absl::StatusOr<SessionShape>(int64_t buffer_size)>;
  // `key` must outlive it.
  SnapshotReader(const SnapshotKey& key, ShapeOf shape_of);

  // DATA_LOSS, FAILED_PRECONDITION.
  absl::Status Add(std::string_view piece);
  // The snapshot, once it is known and was not taken yet.
  std::optional<Snapshot> TakeSnapshot();
  // The blocks that are whole and were not taken yet, one after the other without checksums; the
  // index of the first.
  std::string TakeBlocks(int64_t& first_index);
  // No piece is to come: DATA_LOSS if one is missing.
  absl::Status Finish() const;

  // Known with the snapshot.
  int64_t num_blocks() const { return num_blocks_.total(); }

 private:
  enum class Part { kHead, kText, kBlocks };

  absl::Status ReadHead();
  absl::Status ReadText();
  absl::Status ReadLocal();
  absl::Status ReadBlock();
  size_t BytesOfPart() const;

  const SnapshotKey& key_;
  const ShapeOf shape_of_;
  Part part_ = Part::kHead;
  std::string rest_;  // that is not a whole part yet
  Snapshot snapshot_;
  std::optional<SessionShape> shape_;
  size_t id_bytes_ = 0;
  size_t owner_bytes_ = 0;
  uint64_t text_seed_ = 0;
  bool is_known_ = false;
  bool is_taken_ = false;
  BlockCounts num_blocks_;
  int64_t num_read_ = 0;
  int64_t num_blocks_taken_ = 0;
  std::string blocks_;
  absl::Status status_;
};

}  // namespace ringserve
