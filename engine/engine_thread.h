// The thread that steps an EngineLoop. It sleeps when there is nothing to run.
#pragma once

#include <thread>

#include "engine/engine_loop.h"

namespace ringserve {

class EngineThread {
 public:
  // Starts at once. `loop` must outlive it.
  explicit EngineThread(EngineLoop& loop) : loop_(loop), thread_([this] { Run(); }) {}

  // Live requests end CANCELLED, and idle sessions lie on the disk if there is one, before it
  // returns.
  ~EngineThread() {
    loop_.queue().Close(absl::UnavailableError("the engine has stopped"));
    loop_.queue().Stop();
    thread_.join();
  }

  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

 private:
  void Run() {
    while (!loop_.queue().is_stopped()) {
      if (!loop_.Step()) {
        loop_.queue().WaitForWork(loop_.NextDeadline());
      }
    }
    loop_.EndAll(absl::CancelledError("the engine has stopped"));
    loop_.SaveSessions();
  }

  EngineLoop& loop_;
  std::thread thread_;
};

}  // namespace ringserve
