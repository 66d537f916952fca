// A step that does not end before it is told to.
#pragma once

#include <cstdint>
#include <optional>

#include <absl/synchronization/notification.h>

#include "engine/request.h"

namespace ringserve {

// Holds the engine's thread within a step.
class Hang final : public StopCondition {
 public:
  Hang(absl::Notification& begun, absl::Notification& over) : begun_(begun), over_(over) {}

  std::optional<int32_t> OnToken(int32_t /*token_id*/) override {
    if (!begun_.HasBeenNotified()) {
      begun_.Notify();
    }
    over_.WaitForNotification();
    return std::nullopt;
  }

 private:
  absl::Notification& begun_;
  absl::Notification& over_;
};

}  // namespace ringserve
