// Work that blocks, done elsewhere in the order in which it was given: on a thread of its own.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <utility>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

namespace ringserve {

class IoQueue {
 public:
  virtual ~IoQueue() = default;
  // Any thread. `work` may be destroyed unrun when the queue goes.
  virtual void Add(std::function<void()> work) = 0;
};

// Waits for the work in progress when it goes.
class IoThread final : public IoQueue {
 public:
  IoThread() : thread_([this] { Run(); }) {}

  ~IoThread() override {
    {
      const absl::MutexLock lock(&mutex_);
      is_stopping_ = true;
    }
    thread_.join();
  }

  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  void Add(std::function<void()> work) override {
    const absl::MutexLock lock(&mutex_);
    work_.push_back(std::move(work));
  }

 private:
  bool HasNews() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return is_stopping_ || !work_.empty();
  }

  void Run() {
    for (;;) {
      std::function<void()> work;
      {
        const absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(this, &IoThread::HasNews));
        if (is_stopping_) {
          return;
        }
        work = std::move(work_.front());
        work_.pop_front();
      }
      work();
    }
  }

  absl::Mutex mutex_;
  std::deque<std::function<void()>> work_ ABSL_GUARDED_BY(mutex_);
  bool is_stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace ringserve
