#include "kernels/thread_pool.h"

#include <atomic>
#include <cstdint>
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

}  // namespace
}  // namespace ringserve
