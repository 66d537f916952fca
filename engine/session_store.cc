#include "engine/session_store.h"

#include <algorithm>
#include <random>

#include <fmt/format.h>

#include "engine/base/check.h"

namespace ringserve {
namespace {

std::string RandomId() {
  // Of the system, not seeded: an id is what a stranger would have to guess.
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

absl::Status NotFound(const std::string& id) {
  return absl::NotFoundError(fmt::format("session.id: there is no session \"{}\"", id));
}

absl::Time ExpiryOf(const SessionEntry& entry) {
  return entry.last_used + entry.idle_timeout;
}

absl::Status CheckOptions(const SessionOptions& options) {
  if (options.idle_timeout < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        fmt::format("idle_timeout: {} is below 0", absl::FormatDuration(options.idle_timeout)));
  }
  return absl::OkStatus();
}

absl::Status CheckPosition(const SessionEntry& entry, int64_t position) {
  const int64_t floor = entry.rollback_floor();
  if (position >= floor && position <= entry.position()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      fmt::format("position: {} is not in [{}, {}]", position, floor, entry.position()));
}

}  // namespace

SessionStore::SessionStore(Parts parts, BlockPool& pool, KvMemory& memory)
    : parts_(std::move(parts)), pool_(pool), memory_(memory) {}

absl::StatusOr<SessionInfo> SessionStore::Create(const std::string& owner,
                                                 const SessionOptions& options,
                                                 absl::Time now) {
  RETURN_IF_ERROR(CheckOwner(owner));
  ASSIGN_OR_RETURN(const SessionShape shape, ShapeOf(options.buffer_size));
  RETURN_IF_ERROR(CheckOptions(options));
  RETURN_IF_ERROR(CheckCount());
  auto entry = std::make_unique<SessionEntry>(shape, pool_);
  entry->idle_timeout = options.idle_timeout;
  return Add(std::move(entry), owner, now);
}

absl::StatusOr<SessionShape> SessionStore::ShapeOf(int64_t buffer_size) const {
  if (parts_.shape.has_source) {
    return absl::FailedPreconditionError(
        "the model reads a prompt whole with its encoder and has no sessions");
  }
  SessionShape shape = parts_.shape;
  if (buffer_size == 0 || buffer_size == shape.max_context()) {
    return shape;
  }
  if (buffer_size < 2 * int64_t{shape.block_size} || buffer_size > shape.max_context() ||
      buffer_size % shape.block_size != 0) {
    return absl::InvalidArgumentError(
        fmt::format("buffer_size: {} is not a multiple of {} in [{}, {}]",
                    buffer_size,
                    shape.block_size,
                    2 * shape.block_size,
                    shape.max_context()));
  }
  if (shape.window > 0) {
    shape.max_length = buffer_size;
  } else {
    shape.buffer_size = buffer_size;
    shape.feedback_size = std::min(shape.feedback_size, buffer_size);
  }
  return shape;
}

absl::Status SessionStore::CheckCount() const {
  if (size() < parts_.limits.max_sessions) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      fmt::format("there are {} sessions, as many as sessions.max_sessions allows", size()));
}

absl::Status SessionStore::CheckRoom(const BlockCounts& num_blocks) {
  if (num_blocks.total() == 0 || parts_.has_room(num_blocks)) {
    return absl::OkStatus();
  }
  shortage_ = num_blocks;
  return absl::ResourceExhaustedError(fmt::format(
      "there is no KV memory for {} blocks more: close some sessions", num_blocks.total()));
}

absl::Status SessionStore::CopyBlocks(const std::vector<BlockCopy>& copies) {
  for (const BlockCopy& copy : copies) {
    const absl::Status status = memory_.CopyBlock(copy.from, copy.to);
    copy_status_.Update(status);
    RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

absl::Status SessionStore::TakeCopyStatus() {
  return std::exchange(copy_status_, absl::OkStatus());
}

absl::StatusOr<SessionInfo> SessionStore::Fork(const std::string& owner,
                                               const std::string& id,
                                               std::optional<int64_t> position,
                                               absl::Time now) {
  ASSIGN_OR_RETURN(SessionEntry* const from, FindIdle(owner, id));
  RETURN_IF_ERROR(CheckCount());
  const int64_t at = position.value_or(from->position());
  RETURN_IF_ERROR(CheckPosition(*from, at));
  const Session& session = *from->session;
  const int64_t end = std::min(at, session.position());
  const SessionShape& shape = session.shape();
  // Where contexts slide, and in the local ring, each owner of a block counts.
  BlockCounts needed = session.num_blocks();
  if (!shape.slides) {
    needed.global = end % shape.block_size != 0 ? 1 : 0;
  }
  RETURN_IF_ERROR(CheckRoom(needed));
  std::vector<BlockCopy> copies;
  auto fork = std::make_unique<SessionEntry>(
      std::make_unique<Session>(session, end, SessionEntry::kEndless, copies));
  if (at > end) {
    fork->pending_token = from->pending_token;
  }
  fork->idle_timeout = from->idle_timeout;
  fork->is_foreign = from->is_foreign;
  RETURN_IF_ERROR(CopyBlocks(copies));
  return Add(std::move(fork), owner, now);
}

SessionInfo SessionStore::Add(std::unique_ptr<SessionEntry> added,
                              const std::string& owner,
                              absl::Time now) {
  SessionEntry& entry = *added;
  if (entry.id.empty()) {
    entry.id = parts_.make_id ? parts_.make_id() : RandomId();
  }
  entry.owner = owner;
  entry.serial = next_serial_++;
  if (entry.idle_timeout == absl::ZeroDuration()) {
    entry.idle_timeout = parts_.limits.idle_timeout_s == 0
                             ? absl::InfiniteDuration()
                             : absl::Seconds(parts_.limits.idle_timeout_s);
  }
  entry.created = now;
  entry.charged = now;
  entry.last_used = now;
  const bool is_new = entries_.emplace(entry.id, std::move(added)).second;
  RS_CHECK(is_new);
  File(entry);
  return InfoOf(entry);
}

absl::StatusOr<SessionInfo> SessionStore::Get(const std::string& owner, const std::string& id) {
  SessionEntry* const entry = Find(owner, id);
  if (entry != nullptr) {
    Charge(*entry);
  }
  return entry == nullptr ? absl::StatusOr<SessionInfo>(NotFound(id)) : InfoOf(*entry);
}

std::vector<SessionInfo> SessionStore::List(const std::string& owner) {
  std::vector<SessionEntry*> found;
  for (const auto& [id, entry] : entries_) {
    if (entry->owner == owner && !entry->is_arriving) {
      found.push_back(entry.get());
    }
  }
  std::sort(found.begin(), found.end(), [](const SessionEntry* a, const SessionEntry* b) {
    return a->serial < b->serial;
  });
  std::vector<SessionInfo> infos;
  infos.reserve(found.size());
  for (SessionEntry* const entry : found) {
    Charge(*entry);
    infos.push_back(InfoOf(*entry));
  }
  return infos;
}

absl::StatusOr<SessionInfo> SessionStore::Rollback(const std::string& owner,
                                                   const std::string& id,
                                                   int64_t position,
                                                   absl::Time now) {
  ASSIGN_OR_RETURN(SessionEntry* const entry, FindIdle(owner, id));
  RETURN_IF_ERROR(CheckPosition(*entry, position));
  Charge(*entry);
  Session& session = *entry->session;
  if (position <= session.position()) {
    RETURN_IF_ERROR(CheckRoom(session.NumCopies(position)));
    std::vector<BlockCopy> copies;
    session.Rollback(position, copies);
    entry->pending_token.reset();
    RETURN_IF_ERROR(CopyBlocks(copies));
  }
  ++entry->counters.rollbacks;
  Unfile(*entry);
  entry->last_used = now;
  File(*entry);
  return InfoOf(*entry);
}

SessionEntry* SessionStore::Find(const std::string& owner, const std::string& id) const {
  const auto found = entries_.find(id);
  const bool is_there =
      found != entries_.end() && found->second->owner == owner && !found->second->is_arriving;
  return is_there ? found->second.get() : nullptr;
}

void SessionStore::Erase(SessionEntry& entry) {
  RS_CHECK(!entry.request_id.has_value());
  Unfile(entry);
  Charge(entry);
  if (parts_.on_erase) {
    parts_.on_erase(entry);
  }
  if (entry.transfer_id.has_value()) {
    transfers_.erase(*entry.transfer_id);
  }
  // The key that erase reads would go with the entry.
  const auto found = entries_.find(entry.id);
  RS_CHECK(found != entries_.end());
  entries_.erase(found);
}

absl::StatusOr<SessionEntry*> SessionStore::BeginTurn(const GenerateRequest& request) {
  const SessionTurn& turn = *request.turn;
  ASSIGN_OR_RETURN(SessionEntry* const entry, FindIdle(request.owner, turn.session_id));
  if (turn.expected_position.has_value() && *turn.expected_position != entry->position()) {
    return absl::AbortedError(
        fmt::format("session.expected_position: {}, but the session stands at {}",
                    *turn.expected_position,
                    entry->position()));
  }
  const SessionShape& shape = entry->shape();
  const int64_t room = std::max<int64_t>(shape.max_context() - entry->position(), 0);
  if (shape.has_end() && static_cast<int64_t>(request.prompt.size()) > room) {
    return absl::InvalidArgumentError(fmt::format(
        "prompt: {} tokens are more than {}, what is left of the session's buffer_size {}",
        request.prompt.size(),
        room,
        shape.max_context()));
  }
  Unfile(*entry);
  Charge(*entry);
  entry->request_id = request.request_id;
  return entry;
}

void SessionStore::EndTurn(SessionEntry& entry, absl::Time now) {
  RS_CHECK(entry.request_id.has_value());
  entry.request_id.reset();
  Charge(entry);
  entry.last_used = now;
  File(entry);
}

void SessionStore::Expire(absl::Time now) {
  while (!expiries_.empty() && expiries_.begin()->first.first <= now) {
    Erase(*expiries_.begin()->second);
  }
}

absl::Time SessionStore::next_expiry() const {
  return expiries_.empty() ? absl::InfiniteFuture() : expiries_.begin()->first.first;
}

void SessionStore::CollectBlocks(std::vector<int32_t>& blocks) const {
  for (const auto& [id, entry] : entries_) {
    if (entry->session != nullptr) {
      entry->session->CollectAllBlocks(blocks);
    }
  }
}

absl::StatusOr<SessionEntry*> SessionStore::FindIdle(const std::string& owner,
                                                     const std::string& id) const {
  SessionEntry* const entry = Find(owner, id);
  if (entry == nullptr) {
    return NotFound(id);
  }
  if (entry->request_id.has_value()) {
    return absl::AbortedError("session.id: the session is busy with another turn");
  }
  if (entry->transfer_id.has_value()) {
    return absl::AbortedError("session.id: the session is being exported");
  }
  return entry;
}

SessionInfo SessionStore::InfoOf(const SessionEntry& entry) const {
  return {.id = entry.id,
          .position = entry.position(),
          .rollback_floor = entry.rollback_floor(),
          .buffer_size = entry.shape().max_context(),
          .num_blocks = entry.num_blocks().total(),
          .is_busy = entry.is_busy(),
          .created = entry.created,
          .last_used = entry.last_used,
          .expires = entry.is_busy() ? absl::InfiniteFuture() : ExpiryOf(entry),
          .counters = entry.counters};
}

void SessionStore::File(SessionEntry& entry) {
  if (ExpiryOf(entry) < absl::InfiniteFuture()) {
    expiries_.emplace(std::pair(ExpiryOf(entry), entry.serial), &entry);
  }
}

void SessionStore::Unfile(SessionEntry& entry) {
  expiries_.erase(std::pair(ExpiryOf(entry), entry.serial));
}

}  // namespace ringserve
