#include "kernels/thread_pool.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <functional>
#include <thread>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

// Runs one loop and reports how often each index was visited and whether pieces were in bounds.
struct Visits {
  explicit Visits(int64_t count) : times(static_cast<size_t>(count)) {}

  std::vector<std::atomic<int32_t>> times;
  std::atomic<int64_t> bad_pieces{0};
};

bool VisitsAllOnce(ThreadPool& pool, int64_t count, int64_t grain) {
  Visits visits(count);
  pool.ParallelFor(count, grain, [&](int64_t first, int64_t last) {
    if (first < 0 || last > count || first >= last || last - first > grain) {
      ++visits.bad_pieces;
      return;
    }
    for (int64_t i = first; i < last; ++i) {
      ++visits.times[static_cast<size_t>(i)];
    }
  });
  for (const std::atomic<int32_t>& times : visits.times) {
    if (times != 1) {
      return false;
    }
  }
  return visits.bad_pieces == 0;
}

TEST_CASE("every index runs exactly once") {
  const int32_t num_threads = GENERATE(1, 2, 3, 8);
  ThreadPool pool(num_threads);
  REQUIRE(pool.num_threads() == num_threads);
  for (const int64_t count : {0, 1, 2, 7, 64, 1000}) {
    for (const int64_t grain : {1, 3, 64, 5000}) {
      CAPTURE(num_threads, count, grain);
      CHECK(VisitsAllOnce(pool, count, grain));
    }
  }
}

// Each loop reads what the one before wrote, through plain memory, and every loop's body lives in a
// frame that is gone when the next begins: a piece run late or twice, or a missing barrier, breaks
// the sum (and the thread sanitizer sees it).
TEST_CASE("loops follow one another without leaks between them") {
  ThreadPool pool(GENERATE(2, 4, 9));
  Random random(7);
  std::vector<int64_t> values(256, 1);
  int64_t expected = 1;
  for (int step = 0; step < 20000; ++step) {
    const int64_t add = random.Int(-5, 5);
    const int64_t grain = random.Int(1, 300);
    pool.ParallelFor(256, grain, [&, add](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        values[static_cast<size_t>(i)] += add;
      }
    });
    expected += add;
  }
  for (const int64_t value : values) {
    REQUIRE(value == expected);
  }
}

// Loops must not wait for workers that have not begun, or a pool much wider than the machine would
// crawl; here it only has to be right.
TEST_CASE("a pool wider than the machine finishes") {
  ThreadPool pool(64);
  for (int step = 0; step < 50; ++step) {
    REQUIRE(VisitsAllOnce(pool, 500, 1));
  }
}

TEST_CASE("pools can live side by side and end at any time") {
  for (int step = 0; step < 50; ++step) {
    ThreadPool first(3);
    ThreadPool second(2);
    REQUIRE(VisitsAllOnce(first, 20, 1));
    REQUIRE(VisitsAllOnce(second, 20, 1));
    const ThreadPool unused(4);
  }
}

using std::chrono::microseconds;
using std::chrono::milliseconds;

// Has a core for so long, however often it is taken away meanwhile.
void Work(microseconds length) {
  const auto used = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  };
  const auto end = used() + length;
  while (used() < end) {
  }
}

// Of a loop with so many pieces, how many a worker ran.
int64_t WorkersPieces(ThreadPool& pool, int64_t count, const std::function<void(bool)>& piece) {
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<int64_t> num_pieces = 0;
  pool.ParallelFor(count, 1, [&](int64_t, int64_t) {
    const bool is_worker = std::this_thread::get_id() != caller;
    num_pieces += is_worker ? 1 : 0;
    piece(is_worker);
  });
  return num_pieces;
}

// The machine may take the worker's core away at any time: one good run of twenty is asked for,
// each with a pool that has left nobody out yet.
TEST_CASE("a worker that has more to do than the caller is not left out") {
  bool has_helped = false;
  for (int run = 0; run < 20 && !has_helped; ++run) {
    ThreadPool pool(2);
    int64_t num_loops = 0;
    for (int loop = 0; loop < 40; ++loop) {
      std::atomic<bool> has_begun = false;
      num_loops += WorkersPieces(pool, 2, [&](bool is_worker) {
        has_begun = has_begun || is_worker;
        // A caller that does not wait may take both pieces before the worker is awake.
        const auto limit = std::chrono::steady_clock::now() + milliseconds(5);
        while (!has_begun && std::chrono::steady_clock::now() < limit) {
          std::this_thread::yield();
        }
        Work(is_worker ? microseconds(2000) : microseconds(100));
      });
    }
    has_helped = num_loops >= 30;
  }
  CHECK(has_helped);
}

TEST_CASE("a worker that was left out comes back in the middle of a loop") {
  ThreadPool pool(2);
  for (int loop = 0; loop < 4; ++loop) {  // it sleeps with its piece, as if it had no core
    WorkersPieces(pool, 2, [](bool is_worker) {
      if (is_worker) {
        std::this_thread::sleep_for(milliseconds(5));
      } else {
        Work(microseconds(100));
      }
    });
  }
  // More work than the longest absence.
  CHECK(WorkersPieces(pool, 800, [](bool) { Work(milliseconds(1)); }) > 0);
}

}  // namespace
}  // namespace ringserve
