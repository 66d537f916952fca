#include "engine/chat/jinja_budget.h"

#include <fmt/format.h>

namespace ringserve::jinja {

absl::Status Budget::Spend(int64_t steps) {
  steps_ += steps;
  if (steps_ > limits_.steps) {
    return absl::ResourceExhaustedError(fmt::format("more than {} steps", limits_.steps));
  }
  return CheckSize(0);
}

absl::Status Budget::CheckSize(double bytes) const {
  if (static_cast<double>(live_bytes_) + bytes > static_cast<double>(limits_.live_bytes)) {
    return absl::ResourceExhaustedError(
        fmt::format("values of more than {} bytes", limits_.live_bytes));
  }
  return absl::OkStatus();
}

absl::Status Budget::Enter() {
  if (depth_ == limits_.depth) {
    return absl::ResourceExhaustedError(
        fmt::format("calls, blocks and expressions nested deeper than {}", limits_.depth));
  }
  ++depth_;
  return absl::OkStatus();
}

void Budget::Take(int64_t bytes) {
  live_bytes_ += bytes;
  steps_ += bytes / 64;
}

}  // namespace ringserve::jinja
