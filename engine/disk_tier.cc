#include "engine/disk_tier.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "engine/base/check.h"

namespace ringserve {
namespace {

constexpr int64_t kPieceBytes = int64_t{4} << 20;
// A disk that took nothing is not asked again before.
constexpr absl::Duration kFullPause = absl::Seconds(10);

absl::Status CheckEnd(SessionFiles::Reader& file) {
  ASSIGN_OR_RETURN(const std::string more, file.Read(1));
  return more.empty() ? absl::OkStatus() : absl::DataLossError("it goes on after its end");
}

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
  RS_CHECK(parts.files == nullptr || blocks_per_piece() > 0);
}

int64_t DiskTier::PieceBytes(const KvLayout& kv) {
  const int64_t num_blocks = std::max<int64_t>(kPieceBytes / kv.block_bytes(), 1);
  return num_blocks * (kv.block_bytes() + static_cast<int64_t>(kBlockChecksumBytes));
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
absl::Status DiskTier::AppendBlocks(SessionFiles::Writer& file,
                                    int64_t first,
                                    int64_t count) const {
  std::byte* at = write_buffer().data();
  for (int64_t i = 0; i < count; ++i, at += stride()) {
    const std::string sum = BlockChecksum({at, memory_.block_bytes()}, first + i);
    std::memcpy(at + memory_.block_bytes(), sum.data(), kBlockChecksumBytes);
  }
  return file.Append(std::string_view(reinterpret_cast<const char*>(write_buffer().data()),
                                      static_cast<size_t>(count) * stride()));
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
  const int64_t first = spill_->next_block;
  const int64_t count = std::min(blocks_per_piece(), spill_->num_blocks - first);
  std::byte* to = write_buffer().data();
  absl::Status status;
  for (int64_t i = 0; i < count; ++i, to += stride()) {
    status.Update(memory_.Read(blocks_.at(static_cast<size_t>(first + i)), to));
  }
  status.Update(memory_.Synchronize());
  if (!status.ok()) {
    GiveUpSpill(absl::OkStatus());
    hooks_.on_fault(status);
    return;
  }
  spill_->next_block += count;
  Write([this, first, count](SessionFiles::Writer& file) {
    return AppendBlocks(file, first, count);
  });
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
  const int64_t num_blocks = NumBlocks(entry.stored->image, key_.kv.block_size);
  restore_ = {.id = entry.id,
              .file = nullptr,
              .serial = ++last_serial_,
              .num_reserved = num_blocks,
              .num_blocks = num_blocks,
              .bytes = entry.stored->bytes};
  const int64_t beginning = restore_->bytes - num_blocks * static_cast<int64_t>(stride());
  parts_.reads->Add([this, files = parts_.files, id = entry.id, num_blocks, beginning] {
    auto file = std::make_shared<SessionFiles::Reader>(*files, id);
    absl::StatusOr<Snapshot> snapshot = ReadBeginning(*file, beginning);
    if (const absl::Status end = num_blocks == 0 ? CheckEnd(*file) : absl::OkStatus(); !end.ok()) {
      snapshot = snapshot.ok() ? end : snapshot.status();
    }
    hooks_.post([this, file = std::move(file), snapshot = std::move(snapshot)]() mutable {
      restore_->file = std::move(file);
      OnBeginning(std::move(snapshot));
    });
  });
}

absl::StatusOr<Snapshot> DiskTier::ReadBeginning(SessionFiles::Reader& file,
                                                 int64_t num_bytes) const {
  ASSIGN_OR_RETURN(const std::string bytes, file.Read(static_cast<size_t>(num_bytes)));
  SnapshotReader reader(key_,
                        [this](int64_t buffer_size) { return sessions_.ShapeOf(buffer_size); });
  RETURN_IF_ERROR(reader.Add(bytes));
  std::optional<Snapshot> snapshot = reader.TakeSnapshot();
  if (!snapshot.has_value()) {
    return absl::DataLossError("it ends in its beginning");
  }
  return *std::move(snapshot);
}

SessionEntry* DiskTier::Returned(const absl::Status& status) {
  SessionEntry* const entry = sessions_.FindById(restore_->id);
  if (entry == nullptr) {
    // It was closed meanwhile.
    RemoveFile(restore_->id);
    counts_.bytes -= restore_->bytes;
    --counts_.num_sessions;
    restore_.reset();
    return nullptr;
  }
  if (status.ok()) {
    return entry;
  }
  if (absl::IsUnavailable(status)) {
    PutBack(*entry, status);
  } else {
    Lose(*entry, status);
  }
  return nullptr;
}

void DiskTier::OnBeginning(absl::StatusOr<Snapshot> snapshot) {
  SessionEntry* const entry = Returned(snapshot.status());
  if (entry == nullptr) {
    return;
  }
  if (const absl::Status begun = Begin(*entry, *snapshot); !begun.ok()) {
    Lose(*entry, begun);
    return;
  }
  if (restore_->num_blocks == 0) {
    RemoveRestored();
    return;
  }
  ReadNext();
  ReadNext();
}

// On the thread that reads.
absl::Status DiskTier::ReadBlocks(SessionFiles::Reader& file, int64_t first, int64_t count) const {
  const std::span<std::byte> piece =
      read_buffer(first).first(static_cast<size_t>(count) * stride());
  ASSIGN_OR_RETURN(const size_t num_read, file.Read(piece));
  if (num_read < piece.size()) {
    return absl::DataLossError("it ends in its blocks");
  }
  for (int64_t i = 0; i < count; ++i) {
    RETURN_IF_ERROR(
        CheckBlock(piece.subspan(static_cast<size_t>(i) * stride(), stride()), first + i));
  }
  return absl::OkStatus();
}

void DiskTier::ReadNext() {
  const int64_t first = restore_->next_read;
  const int64_t count = std::min(blocks_per_piece(), restore_->num_blocks - first);
  if (count == 0) {
    return;
  }
  restore_->next_read += count;
  const bool is_last = restore_->next_read == restore_->num_blocks;
  parts_.reads->Add(
      [this, serial = restore_->serial, file = restore_->file, first, count, is_last] {
        absl::Status status = ReadBlocks(*file, first, count);
        if (status.ok() && is_last) {
          status = CheckEnd(*file);
        }
        hooks_.post([this, serial, status, count] { OnRead(serial, status, count); });
      });
}

void DiskTier::OnRead(uint64_t serial, const absl::Status& status, int64_t count) {
  if (!restore_.has_value() || restore_->serial != serial) {
    return;  // the piece before was bad, or the session was closed
  }
  const SessionEntry* const entry = Returned(status);
  if (entry == nullptr) {
    return;
  }
  WriteBlocks(*entry, restore_->next_block, count);
  restore_->next_block += count;
  if (restore_->next_block == restore_->num_blocks) {
    RemoveRestored();
  } else {
    ReadNext();
  }
}

void DiskTier::RemoveRestored() {
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

void DiskTier::WriteBlocks(const SessionEntry& entry, int64_t first, int64_t count) {
  blocks_.clear();
  entry.session->CollectBlocks(blocks_);
  const std::byte* from = read_buffer(first).data();
  absl::Status status;
  for (int64_t i = 0; i < count; ++i, from += stride()) {
    status.Update(memory_.Write(blocks_.at(static_cast<size_t>(first + i)), from));
  }
  status.Update(memory_.Synchronize());  // the buffer is to be filled again
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
