// A session on its way out of an engine or into one, as the bytes of a snapshot (snapshot.h), in
// pieces: neither side holds more than a block and a piece of it. One call at a time; each answer
// is given exactly once, on the calling thread or on the engine's (where it must not block), and
// may destroy what was asked: the engine forgets it before it takes any later call. The engine must
// outlive these.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "engine/base/status.h"
#include "engine/session_info.h"

namespace ringserve {

// The session is busy until this is gone: no turn changes what is read. A session that is closed
// meanwhile ends it ABORTED.
class SessionExport {
 public:
  static constexpr size_t kMaxPieceBytes = size_t{1} << 20;

  virtual ~SessionExport() = default;

  // The next bytes, at most kMaxPieceBytes; empty: there are no more.
  using PieceReply = std::function<void(absl::StatusOr<std::string>)>;
  virtual void Next(PieceReply reply) = 0;
};

// Nobody sees the session before Finish has said what it is; if this goes before, nothing stays.
class SessionImport {
 public:
  virtual ~SessionImport() = default;

  // DATA_LOSS (damaged), FAILED_PRECONDITION (of another model, backend or version; it does not fit
  // this engine's rings), RESOURCE_EXHAUSTED (sessions.max_sessions, memory, transfers), ABORTED
  // (there was no call for a minute). After an error nothing more may be called.
  using AddReply = std::function<void(absl::Status)>;
  virtual void Add(std::string piece, AddReply reply) = 0;
  // DATA_LOSS if pieces are missing.
  virtual void Finish(SessionReply reply) = 0;
};

using ExportReply = std::function<void(absl::StatusOr<std::unique_ptr<SessionExport>>)>;

}  // namespace ringserve
