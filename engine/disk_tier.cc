#include "engine/disk_tier.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "engine/base/check.h"

namespace ringserve {
namespace {

// One write or read; a block if that is larger.
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
      pool_(pool) {}

void DiskTier::AddFound(std::vector<SessionFiles::Found> found) {
  for (SessionFiles::Found& file : found) {
    sessions_.AddStored(std::move(file.snapshot), file.bytes);
    counts_.bytes += file.bytes;
    ++counts_.num_sessions;
  }
}

int64_t DiskTier::BlocksPerPiece() const {
  return std::max<int64_t>(kPieceBytes / static_cast<int64_t>(memory_.block_bytes()), 1);
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
    if (entry != kept && entry->num_held() > 0 && Spill(*entry)) {
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
  Append(SnapshotBeginning(key_, snapshot), /*first_block=*/-1);
  return true;
}

// Bytes of the beginning, or of blocks from `first_block` on.
void DiskTier::Append(std::string bytes, int64_t first_block) {
  parts_.writes->Add([this,
                      files = parts_.files,
                      id = spill_->id,
                      file = spill_->file,
                      bytes = std::move(bytes),
                      first_block]() mutable {
    absl::Status status;
    if (first_block < 0) {
      file = std::make_shared<SessionFiles::Writer>(*files, id);
      status = file->Append(bytes);
    }
    const size_t block_bytes = memory_.block_bytes();
    for (size_t at = 0; first_block >= 0 && at < bytes.size() && status.ok(); at += block_bytes) {
      const std::string_view block = std::string_view(bytes).substr(at, block_bytes);
      status = file->Append(block);
      status.Update(file->Append(
          BlockChecksum(std::as_bytes(std::span(block.data(), block.size())), first_block++)));
    }
    // Moved on, for the call may outlive the spill, and the file of one that was given up must be
    // gone before another of the session begins.
    hooks_.post([this, file = std::move(file), status]() mutable {
      spill_->file = std::move(file);
      OnWritten(status);
    });
  });
}

void DiskTier::OnWritten(const absl::Status& status) {
  SessionEntry* const entry = sessions_.FindById(spill_->id);
  if (!status.ok() || spill_->is_cancelled || entry == nullptr) {
    GiveUpSpill(status);
  } else if (spill_->next_block < spill_->num_blocks) {
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
  const size_t block_bytes = memory_.block_bytes();
  const int64_t first = spill_->next_block;
  const int64_t count = std::min(BlocksPerPiece(), spill_->num_blocks - first);
  std::string bytes(static_cast<size_t>(count) * block_bytes, '\0');
  auto* const to = reinterpret_cast<std::byte*>(bytes.data());
  absl::Status status;
  for (int64_t i = 0; i < count; ++i) {
    status.Update(memory_.Read(blocks_.at(static_cast<size_t>(first + i)),
                               to + static_cast<size_t>(i) * block_bytes));
  }
  status.Update(memory_.Synchronize());
  if (!status.ok()) {
    GiveUpSpill(absl::OkStatus());
    hooks_.on_fault(status);
    return;
  }
  spill_->next_block += count;
  Append(std::move(bytes), first);
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

void DiskTier::Restore(SessionEntry& entry) {
  RS_CHECK(entry.residence == Residence::kDisk);
  RS_CHECK(!restore_.has_value());
  entry.residence = Residence::kMoving;
  restore_ = {.id = entry.id,
              .file = nullptr,
              .reader = std::make_shared<SnapshotReader>(
                  key_, [this](int64_t buffer_size) { return sessions_.ShapeOf(buffer_size); }),
              .num_reserved = NumBlocks(entry.stored->image, key_.kv.block_size),
              .bytes = entry.stored->bytes};
  ReadNext();
}

void DiskTier::ReadNext() {
  const size_t count = static_cast<size_t>(BlocksPerPiece()) * (memory_.block_bytes() + 8);
  parts_.reads->Add([this,
                     files = parts_.files,
                     id = restore_->id,
                     file = restore_->file,
                     reader = restore_->reader,
                     count]() mutable {
    if (file == nullptr) {
      file = std::make_shared<SessionFiles::Reader>(*files, id);
    }
    const absl::StatusOr<std::string> bytes = file->Read(count);
    absl::Status status = bytes.ok() ? reader->Add(*bytes) : bytes.status();
    const bool is_end = status.ok() && bytes->size() < count;
    if (is_end) {
      status = reader->Finish();
    }
    hooks_.post([this, file = std::move(file), status, is_end] {
      restore_->file = file;
      OnRead(status, is_end);
    });
  });
}

void DiskTier::OnRead(const absl::Status& status, bool is_end) {
  SessionEntry* const entry = sessions_.FindById(restore_->id);
  if (entry == nullptr) {
    // It was closed meanwhile.
    RemoveFile(restore_->id);
    counts_.bytes -= restore_->bytes;
    --counts_.num_sessions;
    restore_.reset();
    return;
  }
  if (absl::IsUnavailable(status)) {
    PutBack(*entry, status);
    return;
  }
  absl::Status sound = status;
  if (std::optional<Snapshot> snapshot = restore_->reader->TakeSnapshot();
      sound.ok() && snapshot.has_value()) {
    sound = Begin(*entry, *snapshot);
  }
  if (!sound.ok()) {
    Lose(*entry, sound);
    return;
  }
  int64_t first = 0;
  const std::string bytes = restore_->reader->TakeBlocks(first);
  WriteBlocks(*entry, bytes, first);
  if (!is_end) {
    ReadNext();
    return;
  }
  parts_.reads->Add([this, files = parts_.files, id = restore_->id] {
    const absl::Status removed = files->Remove(id);
    hooks_.post([this, removed] { OnRemoved(removed); });
  });
}

// What the file says must be what went into it.
absl::Status DiskTier::Begin(SessionEntry& entry, const Snapshot& snapshot) {
  const SessionImage& stored = entry.stored->image;
  const bool is_it = snapshot.id == entry.id && snapshot.owner == entry.owner &&
                     snapshot.image.position == stored.position &&
                     snapshot.image.first_block == stored.first_block &&
                     snapshot.pending_token == entry.pending_token;
  if (!is_it) {
    return absl::DataLossError("the file is another session's");
  }
  ASSIGN_OR_RETURN(const SessionShape shape, sessions_.ShapeOf(snapshot.image.buffer_size));
  entry.session = std::make_unique<Session>(shape, snapshot.image, pool_);
  restore_->num_reserved = 0;
  return absl::OkStatus();
}

void DiskTier::WriteBlocks(const SessionEntry& entry, const std::string& bytes, int64_t first) {
  if (bytes.empty()) {
    return;
  }
  blocks_.clear();
  entry.session->CollectBlocks(blocks_);
  const size_t block_bytes = memory_.block_bytes();
  const auto* const from = reinterpret_cast<const std::byte*>(bytes.data());
  absl::Status status;
  for (size_t i = 0; i * block_bytes < bytes.size(); ++i) {
    status.Update(
        memory_.Write(blocks_.at(static_cast<size_t>(first) + i), from + i * block_bytes));
  }
  status.Update(memory_.Synchronize());  // the bytes go
  if (!status.ok()) {
    hooks_.on_fault(status);
  }
}

void DiskTier::OnRemoved(const absl::Status& removed) {
  SessionEntry* const entry = sessions_.FindById(restore_->id);
  if (!removed.ok() && entry != nullptr) {
    // A kill could bring back an old state.
    PutBack(*entry, absl::UnavailableError("its file cannot be removed"));
    return;
  }
  counts_.bytes -= restore_->bytes;
  --counts_.num_sessions;
  ++counts_.num_restored;
  counts_.is_full = false;
  restore_.reset();
  if (entry != nullptr) {
    entry->residence = Residence::kMemory;
    entry->stored.reset();
    entry->charged = hooks_.clock();
    hooks_.on_back(*entry);
  }
}

void DiskTier::PutBack(SessionEntry& entry, const absl::Status& why) {
  entry.session.reset();
  entry.residence = Residence::kDisk;
  restore_.reset();
  hooks_.on_unread(entry,
                   absl::UnavailableError(fmt::format("the session stays on the disk: {}",
                                                      std::string(why.message()))));
}

void DiskTier::Lose(SessionEntry& entry, const absl::Status& why) {
  ++counts_.num_lost;
  counts_.bytes -= restore_->bytes;
  --counts_.num_sessions;
  RemoveFile(entry.id);
  restore_.reset();
  hooks_.on_lost(entry,
                 absl::DataLossError(
                     fmt::format("the session's file cannot be read, and the session is closed: {}",
                                 std::string(why.message()))));
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
