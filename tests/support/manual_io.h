// Work for the disk that is done when a test says so.
#pragma once

#include <deque>
#include <functional>
#include <utility>

#include "engine/io_queue.h"

namespace ringserve {

class ManualIo final : public IoQueue {
 public:
  void Add(std::function<void()> work) override {
    work_.push_back(std::move(work));
    while (is_inline && RunOne()) {
    }
  }

  // False: there was none.
  bool RunOne() {
    if (work_.empty()) {
      return false;
    }
    const std::function<void()> work = std::move(work_.front());
    work_.pop_front();
    work();
    return true;
  }

  size_t size() const { return work_.size(); }

  bool is_inline = false;  // at once

 private:
  std::deque<std::function<void()>> work_;
};

}  // namespace ringserve
