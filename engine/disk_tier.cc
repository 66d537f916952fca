#include "engine/disk_tier.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

#include "engine/base/check.h"
#include "kernels/types.h"

namespace ringserve {
namespace {

constexpr int64_t kPieceBytes = int64_t{4} << 20;
// A disk that took nothing is not asked again before.
constexpr absl::Duration kFullPause = absl::Seconds(10);

}  // namespace

DiskTier::DiskTier(const Parts& parts,
                   const SnapshotKey& key,
                   Hooks hooks,
                   SessionStore& sessions,
                   KvMemory& memory,
                   BlockPool& pool)
    : parts_(parts),
      key_(key),
      hooks_(std::move(hooks)),
      sessions_(sessions),
      memory_(memory),
      pool_(pool) {
  RS_CHECK(parts.files == nullptr || BlocksPerPiece(BlockGroup::kGlobal) > 0);
}

int64_t DiskTier::PieceBytes(const KvLayout& kv) {
  const int64_t num_blocks = std::max<int64_t>(kPieceBytes / kv.block_bytes(), 1);
  return num_blocks * (kv.block_bytes() + static_cast<int64_t>(kBlockChecksumBytes));
}

int64_t DiskTier::PieceBytes(const KvLayout& kv, const KvLayout& local_kv) {
  return local_kv.num_layers == 0 ? PieceBytes(kv) : std::max(PieceBytes(kv), PieceBytes(local_kv));
}

DiskTier::Piece DiskTier::PieceFrom(int64_t first, const BlockCounts& num_blocks) const {
  const int64_t global_per_piece = BlocksPerPiece(BlockGroup::kGlobal);
  if (first < num_blocks.global) {
    return {.first = first,
            .count = std::min(global_per_piece, num_blocks.global - first),
            .index = first / global_per_piece,
            .block_bytes = memory_.block_bytes(BlockGroup::kGlobal)};
  }
  if (num_blocks.local == 0) {
    return {.first = first};
  }
  const int64_t per_piece = BlocksPerPiece(BlockGroup::kLocal);
  const int64_t first_local = first - num_blocks.global;
  return {.first = first,
          .count = std::min(per_piece, num_blocks.local - first_local),
          .index = CeilDiv(num_blocks.global, global_per_piece) + first_local / per_piece,
          .block_bytes = memory_.block_bytes(BlockGroup::kLocal)};
}

void DiskTier::AddFound(std::vector<SessionFiles::Found> found) {
  for (SessionFiles::Found& file : found) {
    sessions_.AddStored(std::move(file.snapshot), file.bytes);
    counts_.bytes += file.bytes;
    ++counts_.num_sessions;
  }
}

bool DiskTier::MakeRoom(std::span<SessionEntry* const> others, const SessionEntry* kept) {
  if (parts_.files == nullptr) {
    return false;
  }
  if (kept != nullptr) {
    Keep(*kept);
  }
  if (spill_.has_value()) {
    return true;
  }
  if (hooks_.clock() < full_until_) {
    return false;
  }
  std::vector<SessionEntry*> candidates = sessions_.LeastRecentlyUsed();
  candidates.insert(candidates.end(), others.begin(), others.end());
  for (SessionEntry* const entry : candidates) {
    if (entry != kept && entry->num_held().total() > 0 && Spill(*entry)) {
      return true;
    }
  }
  return false;
}

bool DiskTier::Spill(SessionEntry& entry) {
  RS_CHECK(!spill_.has_value());
  Snapshot snapshot = SessionStore::SnapshotOf(entry);
  snapshot.id = entry.id;
  snapshot.owner = entry.owner;
  const int64_t bytes = SnapshotBytes(key_, snapshot);
  if (bytes > parts_.max_bytes - counts_.bytes) {
    counts_.is_full = true;
    return false;
  }
  spill_ = {.id = entry.id,
            .file = nullptr,
            .num_blocks = NumBlocks(snapshot.image, key_.kv.block_size),
            .bytes = bytes};
  Write([beginning = SnapshotBeginning(key_, snapshot)](SessionFiles::Writer& file) {
    return file.Append(beginning);
  });
  return true;
}

void DiskTier::Write(Append append) {
  parts_.writes->Add([this,
                      files = parts_.files,
                      id = spill_->id,
                      file = spill_->file,
                      append = std::move(append)]() mutable {
    if (file == nullptr) {
      file = std::make_shared<SessionFiles::Writer>(*files, id);
    }
    const absl::Status status = append(*file);
    // Moved on, for the call may outlive the spill, and the file of one that was given up must be
    // gone before another of the session begins.
    hooks_.post([this, file = std::move(file), status]() mutable {
      spill_->file = std::move(file);
      OnWritten(status);
    });
  });
}

// On the thread that writes: the engine's does not wait for checksums.
absl::Status DiskTier::AppendBlocks(SessionFiles::Writer& file, const Piece& piece) const {
  std::byte* at = write_buffer().data();
  for (int64_t i = 0; i < piece.count; ++i, at += piece.stride()) {
    const std::string sum = BlockChecksum({at, piece.block_bytes}, piece.first + i);
    std::memcpy(at + piece.block_bytes, sum.data(), kBlockChecksumBytes);
  }
  return file.Append(
      std::string_view(reinterpret_cast<const char*>(write_buffer().data()), piece.bytes()));
}

void DiskTier::OnWritten(const absl::Status& status) {
  SessionEntry* const entry = sessions_.FindById(spill_->id);
  if (!status.ok() || spill_->is_cancelled || entry == nullptr) {
    GiveUpSpill(status);
  } else if (spill_->next_block < spill_->num_blocks.total()) {
    WriteNext(*entry);
  } else {
    spill_->is_committing = true;
    entry->residence = Residence::kMoving;
    parts_.writes->Add([this, file = spill_->file] {
      const absl::Status committed = file->Commit();
      hooks_.post([this, committed] { OnCommitted(committed); });
    });
  }
}

void DiskTier::WriteNext(SessionEntry& entry) {
  blocks_.clear();
  entry.session->CollectBlocks(blocks_);
  const Piece piece = PieceFrom(spill_->next_block, spill_->num_blocks);
  std::byte* to = write_buffer().data();
  absl::Status status;
  for (int64_t i = 0; i < piece.count; ++i, to += piece.stride()) {
    status.Update(memory_.Read(blocks_.at(static_cast<size_t>(piece.first + i)), to));
  }
  status.Update(memory_.Synchronize());
  if (!status.ok()) {
    GiveUpSpill(absl::OkStatus());
    hooks_.on_fault(status);
    return;
  }
  spill_->next_block += piece.count;
  Write([this, piece](SessionFiles::Writer& file) { return AppendBlocks(file, piece); });
}

// `status` is what the disk said.
void DiskTier::GiveUpSpill(const absl::Status& status) {
  if (!status.ok()) {
    full_until_ = hooks_.clock() + kFullPause;
    counts_.is_full = true;
  }
  // What is left of the file goes where waiting does no harm.
  parts_.writes->Add([file = std::move(spill_->file)]() mutable { file.reset(); });
  spill_.reset();
}

void DiskTier::OnCommitted(const absl::Status& status) {
  SessionEntry* const entry = sessions_.FindById(spill_->id);
  if (!status.ok() || entry == nullptr) {
    RemoveFile(spill_->id);  // it may have its name already
    GiveUpSpill(status);
    if (entry != nullptr) {
      entry->residence = Residence::kMemory;
      hooks_.on_back(*entry);
    }
    return;
  }
  counts_.bytes += spill_->bytes;
  ++counts_.num_sessions;
  ++counts_.num_spilled;
  counts_.is_full = false;
  sessions_.Store(*entry, spill_->bytes);
  spill_.reset();
}

void DiskTier::Keep(const SessionEntry& entry) {
  if (spill_.has_value() && spill_->id == entry.id && !spill_->is_committing) {
    spill_->is_cancelled = true;
  }
}

void DiskTier::StopSpilling() {
  full_until_ = absl::InfiniteFuture();
  if (spill_.has_value() && !spill_->is_committing) {
    spill_->is_cancelled = true;
  }
}

void DiskTier::Forget(const SessionEntry& entry) {
  if (entry.residence == Residence::kDisk) {
    RemoveFile(entry.id);
    counts_.bytes -= entry.stored->bytes;
    --counts_.num_sessions;
    counts_.is_full = false;
  }
  // One that is on its way is missed when it arrives.
}

void DiskTier::RemoveFile(const std::string& id) {
  parts_.writes->Add([files = parts_.files, id] {
    files->Remove(id).IgnoreError();  // the next start finds a session of nobody's, and it expires
  });
}

}  // namespace ringserve
