// A request that only reads (Score, Embed) and what it came to. Each of its parts is a request of
// the engine's; if one fails the others are cancelled.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/request.h"
#include "server/caller_accounts.h"
#include "server/engine_port.h"
#include "server/stream_pump.h"

namespace ringserve {

// Must outlive its end.
class Reading final : public EventTarget {
 public:
  struct Part {
    std::vector<ScoredToken> tokens;  // of a continuation
    std::vector<float> embedding;
    FinishedEvent finished;
  };

  struct Setup {
    EnginePort& engine;
    StreamPump& pump;
    CallerAccounts* accounts = nullptr;  // null: nobody counts
    // Called once, on the pump thread, if Begin answered OK: then parts() are complete, or the
    // status says what failed first. It may destroy the reading.
    std::function<void(const absl::Status&)> on_end;
  };

  explicit Reading(Setup setup) : setup_(std::move(setup)) {}

  // Names the request and its siblings, and submits them. Once.
  absl::Status Begin(GenerateRequest request);
  // After Begin; any thread.
  void Cancel();

  // In the order of the request.
  const std::vector<Part>& parts() const { return parts_; }

  // EventTarget, on the pump thread.
  void Push(TokenEvent&& event) override;
  void Flush() override;

 private:
  const Setup setup_;
  std::string owner_;
  uint64_t first_engine_id_ = 0;
  int32_t num_parts_ = 0;
  std::vector<Part> parts_;
  int32_t num_ended_ = 0;
  absl::Status failure_;
};

}  // namespace ringserve
