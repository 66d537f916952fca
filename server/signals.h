// SIGTERM, SIGINT and a failure of our own as something to wait for.
#pragma once

#include <atomic>
#include <thread>

#include <absl/synchronization/mutex.h>
#include <absl/synchronization/notification.h>

namespace ringserve {

// The first signal is told to Wait. What is to be done about it is bounded by a deadline, but
// whoever sends a second one wants no waiting: it ends the process at once, with exit code 1. So
// does one before Arm, with exit code 0: nothing is being served yet. Make one before any other
// thread, so that all threads have the signals blocked.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  void Arm() { armed_ = true; }

  // As a first signal would, from any thread; Wait then says 0.
  void Fail();

  // Until the first signal; says which.
  int Wait();

 private:
  void Run();

  void Tell(int signal);

  absl::Mutex mutex_;  // who is first
  absl::Notification first_;
  std::atomic<bool> armed_ = false;
  std::atomic<int> signal_ = 0;
  std::thread thread_;
};

}  // namespace ringserve
