// The way back: a file's beginning, then its blocks, two pieces ahead; then the file goes.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "engine/base/check.h"
#include "engine/disk_tier.h"

namespace ringserve {
namespace {

absl::Status CheckEnd(SessionFiles::Reader& file) {
  ASSIGN_OR_RETURN(const std::string more, file.Read(1));
  return more.empty() ? absl::OkStatus() : absl::DataLossError("it goes on after its end");
}

}  // namespace

void DiskTier::Restore(SessionEntry& entry) {
  RS_CHECK(entry.residence == Residence::kDisk);
  RS_CHECK(!restore_.has_value());
  entry.residence = Residence::kMoving;
  const BlockCounts num_blocks = NumBlocks(entry.stored->image, key_.kv.block_size);
  restore_ = {.id = entry.id,
              .file = nullptr,
              .serial = ++last_serial_,
              .num_reserved = num_blocks,
              .num_blocks = num_blocks,
              .bytes = entry.stored->bytes};
  const int64_t beginning = restore_->bytes - BlocksBytes(key_, num_blocks);
  parts_.reads->Add([this, files = parts_.files, id = entry.id, num_blocks, beginning] {
    auto file = std::make_shared<SessionFiles::Reader>(*files, id);
    absl::StatusOr<Snapshot> snapshot = ReadBeginning(*file, beginning);
    if (const absl::Status end = num_blocks.total() == 0 ? CheckEnd(*file) : absl::OkStatus();
        !end.ok()) {
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
  if (restore_->num_blocks.total() == 0) {
    RemoveRestored();
    return;
  }
  ReadNext();
  ReadNext();
}

// On the thread that reads.
absl::Status DiskTier::ReadBlocks(SessionFiles::Reader& file, const Piece& piece) const {
  const std::span<std::byte> bytes = read_buffer(piece).first(piece.bytes());
  ASSIGN_OR_RETURN(const size_t num_read, file.Read(bytes));
  if (num_read < bytes.size()) {
    return absl::DataLossError("it ends in its blocks");
  }
  for (int64_t i = 0; i < piece.count; ++i) {
    RETURN_IF_ERROR(CheckBlock(
        bytes.subspan(static_cast<size_t>(i) * piece.stride(), piece.stride()), piece.first + i));
  }
  return absl::OkStatus();
}

void DiskTier::ReadNext() {
  const Piece piece = PieceFrom(restore_->next_read, restore_->num_blocks);
  if (piece.count == 0) {
    return;
  }
  restore_->next_read += piece.count;
  const bool is_last = restore_->next_read == restore_->num_blocks.total();
  parts_.reads->Add([this, serial = restore_->serial, file = restore_->file, piece, is_last] {
    absl::Status status = ReadBlocks(*file, piece);
    if (status.ok() && is_last) {
      status = CheckEnd(*file);
    }
    hooks_.post([this, serial, status, piece] { OnRead(serial, status, piece); });
  });
}

void DiskTier::OnRead(uint64_t serial, const absl::Status& status, const Piece& piece) {
  if (!restore_.has_value() || restore_->serial != serial) {
    return;  // the piece before was bad, or the session was closed
  }
  const SessionEntry* const entry = Returned(status);
  if (entry == nullptr) {
    return;
  }
  WriteBlocks(*entry, piece);
  restore_->next_block += piece.count;
  if (restore_->next_block == restore_->num_blocks.total()) {
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
                     snapshot.image.local_first_block == stored.local_first_block &&
                     snapshot.pending_token == entry.pending_token;
  if (!is_it) {
    return absl::DataLossError("the file is another session's");
  }
  ASSIGN_OR_RETURN(const SessionShape shape, sessions_.ShapeOf(snapshot.image.buffer_size));
  entry.session = std::make_unique<Session>(shape, snapshot.image, pool_);
  restore_->num_reserved = {};
  return absl::OkStatus();
}

void DiskTier::WriteBlocks(const SessionEntry& entry, const Piece& piece) {
  blocks_.clear();
  entry.session->CollectBlocks(blocks_);
  const std::byte* from = read_buffer(piece).data();
  absl::Status status;
  for (int64_t i = 0; i < piece.count; ++i, from += piece.stride()) {
    status.Update(memory_.Write(blocks_.at(static_cast<size_t>(piece.first + i)), from));
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

}  // namespace ringserve
