#include "server/watchdog.h"

#include <set>
#include <utility>

#include <fmt/format.h>

namespace ringserve {
namespace {

constexpr int kLooksPerLimit = 8;

}  // namespace

Watchdog::Watchdog(std::span<const std::unique_ptr<ServedModel>> models,
                   absl::Duration limit,
                   std::function<void(const ServedModel&)> on_hang)
    : models_(models), limit_(limit), on_hang_(std::move(on_hang)), thread_([this] { Run(); }) {}

Watchdog::~Watchdog() {
  {
    const absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

bool Watchdog::has_bitten() const {
  const absl::MutexLock lock(&mutex_);
  return has_bitten_;
}

void Watchdog::Run() {
  std::set<const ServedModel*> given_up;
  const absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&stopping_), limit_ / kLooksPerLimit)) {
    for (const auto& model : models_) {
      if (model->engine->step_age() <= limit_ || !given_up.insert(model.get()).second) {
        continue;
      }
      has_bitten_ = true;
      model->engine->GiveUp(absl::InternalError(fmt::format(
          "the device hangs: a step has gone on for more than {}", absl::FormatDuration(limit_))));
      on_hang_(*model);
    }
  }
}

}  // namespace ringserve
