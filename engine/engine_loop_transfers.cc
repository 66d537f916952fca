// Sessions that leave or arrive as snapshots. What is done with their blocks is done on the engine
// thread, a few at a time; parsing and checksums are their caller's.
#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "engine/base/check.h"
#include "engine/engine_loop.h"
#include "engine/session_transfer.h"

namespace ringserve {
namespace {

absl::Status Gone() {
  return absl::AbortedError("the session was closed, or its import paused for too long");
}

}  // namespace

// Its name, and what is to be known before the first block.
struct EngineLoop::ExportTicket {
  uint64_t transfer_id = 0;
  BlockCounts num_blocks;
  std::string beginning;
};

class EngineLoop::Export final : public SessionExport {
 public:
  Export(EngineLoop& loop, ExportTicket ticket)
      : loop_(loop), ticket_(std::move(ticket)), ready_(std::move(ticket_.beginning)) {}

  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;

  ~Export() override { loop_.PostEndTransfer(ticket_.transfer_id); }

  void Next(PieceReply reply) override {
    if (taken_ < ready_.size() || next_block_ == ticket_.num_blocks.total()) {
      reply(TakePiece());
      return;
    }
    const auto block_bytes = static_cast<int64_t>(BlockBytes());
    // Of one size.
    const bool is_global = next_block_ < ticket_.num_blocks.global;
    const int64_t end = is_global ? ticket_.num_blocks.global : ticket_.num_blocks.total();
    const int64_t count = std::clamp<int64_t>(
        static_cast<int64_t>(kMaxPieceBytes) / block_bytes, 1, end - next_block_);
    const uint64_t id = ticket_.transfer_id;
    loop_.Ask(std::function<void(absl::StatusOr<std::string>)>(
                  [this, reply = std::move(reply)](absl::StatusOr<std::string> blocks) {
                    reply(blocks.ok() ? absl::StatusOr<std::string>(Take(*std::move(blocks)))
                                      : std::move(blocks));
                  }),
              [&loop = loop_, id, first = next_block_, count] {
                return loop.ReadBlocks(id, first, count);
              });
  }

 private:
  // Of the next block.
  size_t BlockBytes() const {
    return loop_.memory_.block_bytes(next_block_ < ticket_.num_blocks.global ? BlockGroup::kGlobal
                                                                             : BlockGroup::kLocal);
  }

  // Blocks and their checksums; the first piece of them.
  std::string Take(const std::string& blocks) {
    const size_t block_bytes = BlockBytes();
    ready_.clear();
    taken_ = 0;
    for (size_t at = 0; at < blocks.size(); at += block_bytes) {
      ready_.append(blocks, at, block_bytes);
      ready_ +=
          BlockChecksum(std::as_bytes(std::span(blocks.data() + at, block_bytes)), next_block_++);
    }
    return TakePiece();
  }

  std::string TakePiece() {
    std::string piece = ready_.substr(taken_, kMaxPieceBytes);
    taken_ += piece.size();
    return piece;
  }

  EngineLoop& loop_;
  ExportTicket ticket_;
  std::string ready_;
  size_t taken_ = 0;
  int64_t next_block_ = 0;
};

class EngineLoop::Import final : public SessionImport {
 public:
  Import(EngineLoop& loop, std::string owner, const CallOptions& options)
      : loop_(loop),
        owner_(std::move(owner)),
        options_(options),
        reader_(loop.parts_.snapshot_key,
                [&loop](int64_t buffer_size) { return loop.sessions_.ShapeOf(buffer_size); }) {}

  Import(const Import&) = delete;
  Import& operator=(const Import&) = delete;

  ~Import() override {
    if (transfer_id_.has_value()) {
      loop_.PostEndTransfer(*transfer_id_);
    }
  }

  void Add(std::string piece, AddReply reply) override {
    if (absl::Status read = reader_.Add(piece); !read.ok()) {
      reply(std::move(read));
      return;
    }
    std::optional<Snapshot> snapshot = reader_.TakeSnapshot();
    int64_t first = 0;
    std::string blocks = reader_.TakeBlocks(first);
    if (!snapshot.has_value() && blocks.empty()) {
      reply(absl::OkStatus());
      return;
    }
    // The engine's calls are copied about; what they carry is not.
    auto begins = std::make_shared<std::optional<Snapshot>>(std::move(snapshot));
    auto bytes = std::make_shared<std::string>(std::move(blocks));
    loop_.AskForBlocks({.owner = owner_, .options = options_, .is_import = true},
                       std::move(reply),
                       [this, begins, bytes, first]() -> absl::Status {
                         if (begins->has_value()) {
                           ASSIGN_OR_RETURN(transfer_id_, loop_.BeginImport(owner_, **begins));
                         }
                         return loop_.WriteBlocks(*transfer_id_, first, *bytes);
                       });
  }

  void Finish(SessionReply reply) override {
    if (absl::Status whole = reader_.Finish(); !whole.ok()) {
      reply(std::move(whole));
      return;
    }
    loop_.Ask(std::move(reply), [this] { return loop_.FinishImport(*transfer_id_); });
  }

 private:
  EngineLoop& loop_;
  const std::string owner_;
  const CallOptions options_;
  SnapshotReader reader_;
  std::optional<uint64_t> transfer_id_;  // once it was begun
};

void EngineLoop::ExportSession(const std::string& owner,
                               const std::string& id,
                               const CallOptions& options,
                               ExportReply reply) {
  using Ticket = absl::StatusOr<ExportTicket>;
  AskForBlocks({.owner = owner, .session_id = id, .options = options},
               std::function<void(Ticket)>([this, reply = std::move(reply)](Ticket ticket) {
                 reply(ticket.ok() ? absl::StatusOr<std::unique_ptr<SessionExport>>(
                                         std::make_unique<Export>(*this, *std::move(ticket)))
                                   : ticket.status());
               }),
               [this, owner, id] { return BeginExport(owner, id); });
}

std::unique_ptr<SessionImport> EngineLoop::ImportSession(std::string owner,
                                                         const CallOptions& options) {
  return std::make_unique<Import>(*this, std::move(owner), options);
}

absl::StatusOr<EngineLoop::ExportTicket> EngineLoop::BeginExport(const std::string& owner,
                                                                 const std::string& id) {
  ASSIGN_OR_RETURN(SessionEntry* const entry, sessions_.BeginExport(owner, id));
  Snapshot snapshot = SessionStore::SnapshotOf(*entry);
  snapshot.is_foreign = true;  // it leaves our hands
  return ExportTicket{.transfer_id = *entry->transfer_id,
                      .num_blocks = NumBlocks(snapshot.image, parts_.shape.block_size),
                      .beginning = SnapshotBeginning(parts_.snapshot_key, snapshot)};
}

absl::StatusOr<std::string> EngineLoop::ReadBlocks(uint64_t transfer_id,
                                                   int64_t first,
                                                   int64_t count) {
  SessionEntry* const entry = sessions_.FindTransfer(transfer_id);
  if (entry == nullptr) {
    return Gone();
  }
  blocks_.clear();
  entry->session->CollectBlocks(blocks_);
  const size_t block_bytes = memory_.bytes_of(blocks_.at(static_cast<size_t>(first)));
  std::string bytes(static_cast<size_t>(count) * block_bytes, '\0');
  auto* const to = reinterpret_cast<std::byte*>(bytes.data());
  absl::Status status;
  for (int64_t i = 0; i < count; ++i) {
    status.Update(memory_.Read(blocks_.at(static_cast<size_t>(first + i)),
                               to + static_cast<size_t>(i) * block_bytes));
  }
  status.Update(memory_.Synchronize());
  copied_.Update(status);
  RETURN_IF_ERROR(status);
  return bytes;
}

absl::StatusOr<uint64_t> EngineLoop::BeginImport(const std::string& owner,
                                                 const Snapshot& snapshot) {
  ASSIGN_OR_RETURN(SessionEntry* const entry,
                   sessions_.BeginImport(owner, snapshot, parts_.clock()));
  return *entry->transfer_id;
}

absl::Status EngineLoop::WriteBlocks(uint64_t transfer_id,
                                     int64_t first,
                                     const std::string& bytes) {
  SessionEntry* const entry = sessions_.FindTransfer(transfer_id);
  if (entry == nullptr) {
    return Gone();
  }
  sessions_.TouchImport(*entry, parts_.clock());
  blocks_.clear();
  entry->session->CollectBlocks(blocks_);
  const auto* from = reinterpret_cast<const std::byte*>(bytes.data());
  const std::byte* const end = from + bytes.size();
  absl::Status status;
  for (auto i = static_cast<size_t>(first); from < end; ++i) {
    const int32_t block = blocks_.at(i);
    status.Update(memory_.Write(block, from));
    from += memory_.bytes_of(block);
  }
  status.Update(memory_.Synchronize());  // the bytes go
  copied_.Update(status);
  return status;
}

absl::StatusOr<SessionInfo> EngineLoop::FinishImport(uint64_t transfer_id) {
  SessionEntry* const entry = sessions_.FindTransfer(transfer_id);
  if (entry == nullptr) {
    return Gone();
  }
  return sessions_.FinishImport(*entry, parts_.clock());
}

void EngineLoop::PostEndTransfer(uint64_t transfer_id) {
  queue_.PostRelease([this, transfer_id] {
    if (SessionEntry* const entry = sessions_.FindTransfer(transfer_id); entry != nullptr) {
      sessions_.EndTransfer(*entry);
    }
  });
}

}  // namespace ringserve
