// Sessions that are read or written from outside, block by block, and those that lie in files.
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "engine/base/check.h"
#include "engine/session_store.h"

namespace ringserve {

absl::Status SessionStore::CheckTransfers(size_t num_waiting) const {
  if (transfers_.size() + num_waiting < kMaxTransfers) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      fmt::format("{} sessions are being exported or imported, the most at once", kMaxTransfers));
}

void SessionStore::BeginTransfer(SessionEntry& entry) {
  entry.transfer_id = ++last_transfer_id_;
  transfers_.emplace(*entry.transfer_id, &entry);
}

absl::StatusOr<SessionEntry*> SessionStore::BeginExport(const std::string& owner,
                                                        const std::string& id) {
  ASSIGN_OR_RETURN(SessionEntry* const entry, FindIdle(owner, id));
  RETURN_IF_ERROR(CheckTransfers());
  Unfile(*entry);
  BeginTransfer(*entry);
  return entry;
}

absl::StatusOr<SessionEntry*> SessionStore::BeginImport(const std::string& owner,
                                                        const Snapshot& snapshot,
                                                        absl::Time now) {
  RETURN_IF_ERROR(CheckOwner(owner));
  RETURN_IF_ERROR(CheckCount());
  RETURN_IF_ERROR(CheckTransfers());
  ASSIGN_OR_RETURN(const SessionShape shape, ShapeOf(snapshot.image.buffer_size));
  RETURN_IF_ERROR(CheckRoom(NumBlocks(snapshot.image, shape.block_size)));
  auto added =
      std::make_unique<SessionEntry>(std::make_unique<Session>(shape, snapshot.image, pool_));
  SessionEntry& entry = *added;
  entry.pending_token = snapshot.pending_token;
  entry.is_foreign = true;
  entry.is_arriving = true;
  entry.idle_timeout = kMaxImportPause;
  entry.arrives_with_timeout = snapshot.idle_timeout;
  Add(std::move(added), owner, now);
  BeginTransfer(entry);
  return &entry;
}

SessionEntry* SessionStore::FindTransfer(uint64_t transfer_id) const {
  const auto found = transfers_.find(transfer_id);
  return found == transfers_.end() ? nullptr : found->second;
}

void SessionStore::TouchImport(SessionEntry& entry, absl::Time now) {
  Unfile(entry);
  entry.last_used = now;
  File(entry);
}

SessionInfo SessionStore::FinishImport(SessionEntry& entry, absl::Time now) {
  RS_CHECK(entry.is_arriving);
  Unfile(entry);
  transfers_.erase(*entry.transfer_id);
  entry.transfer_id.reset();
  entry.is_arriving = false;
  entry.idle_timeout = entry.arrives_with_timeout;
  entry.last_used = now;
  File(entry);
  return InfoOf(entry);
}

void SessionStore::EndTransfer(SessionEntry& entry) {
  if (entry.is_arriving) {
    Erase(entry);
    return;
  }
  transfers_.erase(*entry.transfer_id);
  entry.transfer_id.reset();
  File(entry);
}

Snapshot SessionStore::SnapshotOf(const SessionEntry& entry) {
  Snapshot snapshot;
  snapshot.image = entry.session->Image();
  snapshot.pending_token = entry.pending_token;
  snapshot.idle_timeout = entry.idle_timeout;
  snapshot.created = entry.created;
  snapshot.last_used = entry.last_used;
  snapshot.counters = entry.counters;
  snapshot.is_foreign = entry.is_foreign;
  return snapshot;
}

SessionEntry* SessionStore::FindById(const std::string& id) const {
  const auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : found->second.get();
}

void SessionStore::AddStored(Snapshot snapshot, int64_t bytes) {
  const absl::StatusOr<SessionShape> shape = ShapeOf(snapshot.image.buffer_size);
  RS_CHECK(shape.ok());  // SnapshotReader has asked
  auto added = std::make_unique<SessionEntry>(nullptr);
  SessionEntry& entry = *added;
  entry.id = std::move(snapshot.id);
  entry.pending_token = snapshot.pending_token;
  entry.is_foreign = snapshot.is_foreign;
  entry.idle_timeout = snapshot.idle_timeout;
  entry.counters = snapshot.counters;
  entry.stored = {.image = std::move(snapshot.image), .shape = *shape, .bytes = bytes};
  entry.residence = Residence::kDisk;
  Add(std::move(added), snapshot.owner, snapshot.last_used);  // a file is not charged for
  entry.created = snapshot.created;
}

void SessionStore::Store(SessionEntry& entry, int64_t bytes) {
  Charge(entry);
  SessionImage image = entry.session->Image();
  image.token_ids = {};
  entry.stored = {.image = std::move(image), .shape = entry.session->shape(), .bytes = bytes};
  entry.session.reset();
  entry.residence = Residence::kDisk;
}

std::vector<SessionEntry*> SessionStore::LeastRecentlyUsed() const {
  std::vector<SessionEntry*> found;
  for (const auto& [id, entry] : entries_) {
    if (!entry->is_busy() && entry->residence == Residence::kMemory) {
      found.push_back(entry.get());
    }
  }
  std::sort(found.begin(), found.end(), [](const SessionEntry* a, const SessionEntry* b) {
    return std::pair(a->last_used, a->serial) < std::pair(b->last_used, b->serial);
  });
  return found;
}

HeldMemory SessionStore::HeldFor(const Session& session, absl::Duration duration) const {
  std::vector<int32_t> blocks;
  session.CollectAllBlocks(blocks);
  size_t device_bytes = 0;
  size_t host_bytes = 0;
  for (const int32_t block : blocks) {
    (pool_.is_on_device(block) ? device_bytes : host_bytes) += memory_.bytes_of(block);
  }
  const double seconds = absl::ToDoubleSeconds(duration);
  return {.device_byte_seconds = static_cast<double>(device_bytes) * seconds,
          .host_byte_seconds = static_cast<double>(host_bytes) * seconds};
}

void SessionStore::Charge(SessionEntry& entry) {
  if (!parts_.clock) {
    return;
  }
  const absl::Time now = parts_.clock();
  const absl::Duration duration = now - std::exchange(entry.charged, now);
  if (entry.session == nullptr || entry.is_arriving || duration <= absl::ZeroDuration()) {
    return;
  }
  const HeldMemory held = HeldFor(*entry.session, duration);
  entry.counters.held.Add(held);
  if (parts_.on_charge) {
    parts_.on_charge(entry.owner, held);
  }
}

}  // namespace ringserve
