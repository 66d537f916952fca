// Notices an engine whose step does not end: a hanging device, a dead lock. Nothing can bring it
// back, but its callers can be told and the process can end.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <thread>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include "server/served_model.h"

namespace ringserve {

class Watchdog {
 public:
  // Looks at the engines of `models`, which must outlive it, several times per `limit`. When a step
  // of one has gone on for longer, its live requests fail INTERNAL, it takes no others, and
  // `on_hang` is called, on the watchdog's thread, once for each engine.
  Watchdog(std::span<const std::unique_ptr<ServedModel>> models,
           absl::Duration limit,
           std::function<void(const ServedModel&)> on_hang);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // True if an engine hangs: it cannot be destroyed, for its thread does not end.
  bool has_bitten() const;

 private:
  void Run();

  const std::span<const std::unique_ptr<ServedModel>> models_;
  const absl::Duration limit_;
  const std::function<void(const ServedModel&)> on_hang_;
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool has_bitten_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace ringserve
