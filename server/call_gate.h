// Our own count of open calls: gRPC would take any number.
#pragma once

#include <atomic>
#include <cstdint>

#include <fmt/format.h>

#include "engine/base/status.h"

namespace ringserve {

struct CallGate {
  const int64_t max_calls;
  std::atomic<int64_t> open = 0;
};

// A place among the open calls, given back unless a call takes it over.
class CallPlace {
 public:
  explicit CallPlace(CallGate& gate) : gate_(gate), has_(gate.open.fetch_add(1) < gate.max_calls) {
    if (!has_) {
      gate_.open.fetch_sub(1);
    }
  }

  ~CallPlace() {
    if (has_) {
      gate_.open.fetch_sub(1);
    }
  }

  CallPlace(const CallPlace&) = delete;
  CallPlace& operator=(const CallPlace&) = delete;

  absl::Status status() const {
    return has_ ? absl::OkStatus()
                : absl::ResourceExhaustedError(fmt::format(
                      "{} calls are open, the most that this server takes", gate_.max_calls));
  }

  void Release() { has_ = false; }

 private:
  CallGate& gate_;
  bool has_;
};

}  // namespace ringserve
