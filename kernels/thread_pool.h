// Threads for the CPU kernels. One parallel loop runs at a time; the calling thread takes part, so
// a pool of one thread runs everything inline. Workers sleep when there is nothing to do (0 % CPU
// when idle) and a loop never waits for a worker that has not begun: pieces are handed out
// dynamically, so that a worker whose core is taken away costs at most the piece it holds, and a
// worker that keeps losing its core is left out for a while.
#pragma once

#include <cstdint>
#include <memory>

namespace ringserve {

class ThreadPool {
 public:
  // num_threads >= 1, the caller included.
  explicit ThreadPool(int32_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t num_threads() const;

  // Calls body(first, last) over [0, count) in pieces of at most `grain` (>= 1) indices and returns
  // when all have run. Which thread runs a piece is not defined; results must not depend on it.
  // `body` must not throw and not call ParallelFor. One caller at a time.
  template <typename Body>
  void ParallelFor(int64_t count, int64_t grain, const Body& body) {
    Run(
        count,
        grain,
        [](const void* context, int64_t first, int64_t last) {
          (*static_cast<const Body*>(context))(first, last);
        },
        &body);
  }

 private:
  using PieceFn = void (*)(const void* context, int64_t first, int64_t last);
  void Run(int64_t count, int64_t grain, PieceFn fn, const void* context);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ringserve
