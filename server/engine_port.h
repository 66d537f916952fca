// What the front end needs of an engine. One implementation stands in front of Engine
// (served_model.cc); tests and the front-end benchmark have one that plays the engine.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <absl/time/time.h>

#include "engine/base/status.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "engine/session_info.h"
#include "engine/session_transfer.h"

namespace ringserve {

// Any thread. The contracts are Engine's.
class EnginePort {
 public:
  EnginePort() = default;
  EnginePort(const EnginePort&) = delete;
  EnginePort& operator=(const EnginePort&) = delete;
  virtual ~EnginePort() = default;

  virtual absl::Status Submit(GenerateRequest request) = 0;

  virtual absl::Status CheckQueue() const { return absl::OkStatus(); }

  virtual void Cancel(uint64_t request_id) = 0;
  virtual void SetPaused(uint64_t request_id, bool paused) = 0;
  virtual void Drain(absl::Time deadline) = 0;

  // NOLINTBEGIN(performance-unnecessary-value-param): as Engine's. No sessions: UNIMPLEMENTED.
  virtual void CreateSession(std::string /*owner*/,
                             SessionOptions /*options*/,
                             SessionReply reply) {
    reply(NoSessions());
  }

  virtual void GetSession(std::string /*owner*/, std::string /*id*/, SessionReply reply) {
    reply(NoSessions());
  }

  virtual void ListSessions(std::string /*owner*/, SessionListReply reply) { reply(NoSessions()); }

  virtual void ForkSession(const std::string& /*owner*/,
                           const std::string& /*id*/,
                           std::optional<int64_t> /*position*/,
                           const CallOptions& /*options*/,
                           SessionReply reply) {
    reply(NoSessions());
  }

  virtual void RollbackSession(const std::string& /*owner*/,
                               const std::string& /*id*/,
                               int64_t /*position*/,
                               const CallOptions& /*options*/,
                               SessionReply reply) {
    reply(NoSessions());
  }

  virtual void ExportSession(const std::string& /*owner*/,
                             const std::string& /*id*/,
                             const CallOptions& /*options*/,
                             ExportReply reply) {
    reply(NoSessions());
  }

  // Null: there are none.
  virtual std::unique_ptr<SessionImport> ImportSession(std::string /*owner*/,
                                                       const CallOptions& /*options*/) {
    return nullptr;
  }

  virtual void CancelCall(uint64_t /*call_id*/) {}

  virtual void CloseSession(std::string /*owner*/, std::string /*id*/, SessionReply reply) {
    reply(NoSessions());
  }

  // NOLINTEND(performance-unnecessary-value-param)
  // The engine's step hangs: every live request fails with the status, and no other is taken.
  virtual void GiveUp(const absl::Status& /*status*/) {}

  virtual absl::Duration step_age() const { return absl::ZeroDuration(); }

  virtual EngineLoad load() const = 0;
  virtual RequestLimits limits() const = 0;

 private:
  static absl::Status NoSessions() {
    return absl::UnimplementedError("this engine keeps no sessions");
  }
};

}  // namespace ringserve
