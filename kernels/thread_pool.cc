#include "kernels/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <limits>
#include <pthread.h>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/types.h"

namespace ringserve {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// How long a thread polls before it sleeps: longer than the serial code between two loops of a
// decode step, shorter than anybody's idea of a busy process. A futex wake-up costs about as much.
constexpr auto kSpin = microseconds(40);

// A worker is late if the caller waits this long for it, and several pieces' time, while it has no
// core; one that works all the time merely has more to do. The caller is late itself if one of its
// pieces took this much longer than another and it lost its core then.
constexpr auto kWorkerLate = microseconds(300);
constexpr int kLatePieces = 3;
constexpr auto kCallerLate = milliseconds(1);

// Late once in a while is noise. Of n threads, one that makes the others wait for a share of the
// time above 1 / n does more harm than good; half of that is told from a core that is taken (half
// the time, whatever n) early enough. Such a worker is left out: first for about a scheduler's time
// slice, then twice as long each time that its return goes no better. The last bounds how long a
// core that became free stays unused.
constexpr auto kFirstBench = milliseconds(4);
constexpr auto kLastBench = milliseconds(512);

constexpr auto kUnknown = Clock::duration(-1);

// How often the scheduler took this thread's core for another.
int64_t TimesPreempted() {
  rusage usage{};
  return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nivcsw : 0;
}

// How long the thread has had a core since it began; kUnknown if the system does not tell.
Clock::duration CoreTime(std::thread& thread) {
  clockid_t clock{};
  timespec used{};
  if (pthread_getcpuclockid(thread.native_handle(), &clock) != 0 ||
      clock_gettime(clock, &used) != 0) {
    return kUnknown;
  }
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Polls `done` for at most kSpin; whether it came true.
template <typename Done>
bool Spin(const Done& done) {
  const Clock::time_point end = Clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) {
        return true;
      }
      Pause();
    }
  } while (Clock::now() < end);
  return false;
}

}  // namespace

// A loop is published as a ticket: its number in the upper half, the pieces nobody has claimed yet
// in the lower. A claim is a compare-and-swap that takes one off, so a worker that comes late can
// claim from whatever loop runs then, or find nothing, but never a piece of a loop that has ended;
// and whoever holds a piece may read `loop`, because the caller cannot leave before it is done.
struct ThreadPool::State {
  struct Loop {
    PieceFn fn = nullptr;
    const void* context = nullptr;
    int64_t count = 0;
    int64_t grain = 0;
    uint32_t num_pieces = 0;
  };

  struct alignas(128) Worker {
    std::atomic<uint32_t> invitation{0};  // the latest loop the worker is wanted for
    std::atomic<uint32_t> asleep{0};      // 1 or 0; a word, for its futex
    std::atomic<bool> benched{false};
    std::atomic<bool> busy{false};  // it may hold a piece
    std::atomic<Clock::time_point> last_done{Clock::time_point{}};
    // The caller's:
    Clock::time_point since;  // when it was last late or came back
    Clock::duration bench = Clock::duration::zero();
    Clock::duration used = kUnknown;  // of a core, when the caller began to wait for it
    std::thread thread;
  };

  explicit State(int32_t num_workers) : workers(static_cast<size_t>(num_workers)) {}

  bool RunPiece();
  template <typename Invited>
  static void Sleep(Worker& self, const Invited& invited);
  void Work(Worker& self);
  void Wake(Worker& worker) const;
  void Invite();
  void InviteBack(Clock::time_point now);
  void RunPieces();
  void JudgeCaller(Clock::duration lost);
  void WaitForOthers(Clock::duration longest_piece);
  void JudgeLate(Worker& worker, Clock::duration lost, Clock::time_point now);

  alignas(128) Loop loop;
  alignas(128) std::atomic<uint64_t> ticket{0};
  alignas(128) std::atomic<uint32_t> pending{0};  // pieces that have not ended
  alignas(128) std::atomic<bool> stopping{false};
  uint32_t number = 0;  // of the loop; the caller's, like what follows
  int64_t times_preempted = 0;
  int32_t num_benched = 0;
  std::vector<Worker> workers;
};

// Claims and runs one piece; false if there was none.
bool ThreadPool::State::RunPiece() {
  uint64_t seen = ticket.load(std::memory_order_acquire);
  do {
    if (static_cast<uint32_t>(seen) == 0) {
      return false;
    }
  } while (!ticket.compare_exchange_weak(
      seen, seen - 1, std::memory_order_acquire, std::memory_order_acquire));
  const int64_t first = (int64_t{loop.num_pieces} - static_cast<uint32_t>(seen)) * loop.grain;
  loop.fn(loop.context, first, std::min(loop.count, first + loop.grain));
  return true;
}

// The worker says that it sleeps before it looks once more; Wake() invites it before it looks
// whether it sleeps: one of the two sees the other. It sleeps on its own word and says so anew
// whenever it was woken for nothing: a Wake() that loses its core between looking and waking takes
// back the word of a later sleep, and whoever slept on without it would never be woken again.
template <typename Invited>
void ThreadPool::State::Sleep(Worker& self, const Invited& invited) {
  while (!invited()) {
    self.asleep.store(1);
    if (!invited()) {
      self.asleep.wait(1);
    }
  }
  self.asleep.store(0, std::memory_order_relaxed);
}

void ThreadPool::State::Work(Worker& self) {
  uint32_t seen = 0;
  for (;;) {
    const auto invited = [&] { return self.invitation.load() != seen; };
    if (!Spin(invited)) {
      Sleep(self, invited);
    }
    seen = self.invitation.load();
    if (stopping.load(std::memory_order_relaxed)) {
      return;
    }
    self.busy.store(true, std::memory_order_relaxed);
    while (!self.benched.load(std::memory_order_relaxed) && RunPiece()) {
      self.last_done.store(Clock::now(), std::memory_order_relaxed);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        pending.notify_one();
      }
    }
    self.busy.store(false, std::memory_order_relaxed);
  }
}

// A worker that has been woken and found no core yet is not woken again: that would cost a system
// call in every loop.
void ThreadPool::State::Wake(Worker& worker) const {
  worker.invitation.store(number);
  if (worker.asleep.load() == 1 && worker.asleep.exchange(0) == 1) {
    worker.asleep.notify_one();
  }
}

void ThreadPool::State::Invite() {
  uint32_t wanted = loop.num_pieces - 1;
  Clock::time_point now;
  for (Worker& worker : workers) {
    if (wanted == 0) {
      return;
    }
    if (worker.benched.load(std::memory_order_relaxed)) {
      if (now == Clock::time_point{}) {
        now = Clock::now();
      }
      if (now < worker.since) {
        continue;
      }
      worker.benched.store(false, std::memory_order_relaxed);
      --num_benched;
    }
    Wake(worker);
    --wanted;
  }
}

// A loop may be longer than a bench: who was left out at its beginning comes back in its middle.
void ThreadPool::State::InviteBack(Clock::time_point now) {
  for (Worker& worker : workers) {
    if (worker.benched.load(std::memory_order_relaxed) && now >= worker.since) {
      worker.benched.store(false, std::memory_order_relaxed);
      --num_benched;
      Wake(worker);
    }
  }
}

void ThreadPool::State::JudgeLate(Worker& worker, Clock::duration lost, Clock::time_point now) {
  const auto num_threads = static_cast<int64_t>(workers.size()) + 1;
  if (lost * 2 * num_threads < now - worker.since) {
    worker.bench /= 2;
    worker.since = now;
    return;
  }
  worker.bench = std::clamp<Clock::duration>(2 * worker.bench, kFirstBench, kLastBench);
  worker.since = now + worker.bench;
  if (!worker.benched.exchange(true, std::memory_order_relaxed)) {
    ++num_benched;
  }
}

// Returns when every piece has ended; leaves out the workers that were waited for too long.
void ThreadPool::State::WaitForOthers(Clock::duration longest_piece) {
  const auto done = [&] { return pending.load(std::memory_order_acquire) == 0; };
  if (done()) {
    return;
  }
  const Clock::time_point begin = Clock::now();
  if (!Spin(done)) {
    for (Worker& worker : workers) {
      worker.used =
          worker.busy.load(std::memory_order_relaxed) ? CoreTime(worker.thread) : kUnknown;
    }
    for (uint32_t left = pending.load(std::memory_order_acquire); left != 0;
         left = pending.load(std::memory_order_acquire)) {
      pending.wait(left, std::memory_order_acquire);
    }
  }
  const auto late = std::max<Clock::duration>(kWorkerLate, kLatePieces * longest_piece);
  const Clock::time_point end = Clock::now();
  if (end - begin <= late) {
    return;
  }
  for (Worker& worker : workers) {
    const Clock::duration waited = worker.last_done.load(std::memory_order_relaxed) - begin;
    if (waited <= late || worker.used == kUnknown) {
      continue;
    }
    const Clock::duration used = CoreTime(worker.thread) - worker.used;
    if (waited - used > late) {
      JudgeLate(worker, waited - used, end);
    }
  }
}

// The caller lost its core for that long while workers kept theirs: with one worker less it can
// have that one's.
void ThreadPool::State::JudgeCaller(Clock::duration lost) {
  const int64_t before = std::exchange(times_preempted, TimesPreempted());
  if (before == times_preempted) {
    return;
  }
  for (Worker& worker : workers) {
    if (!worker.benched.load(std::memory_order_relaxed)) {
      JudgeLate(worker, lost, Clock::now());
      return;
    }
  }
}

// The caller's part of a loop.
void ThreadPool::State::RunPieces() {
  auto longest = Clock::duration::zero();
  auto shortest = Clock::duration::max();
  Clock::time_point begin = Clock::now();
  while (RunPiece()) {
    const Clock::time_point end = Clock::now();
    longest = std::max(longest, end - begin);
    shortest = std::min(shortest, end - begin);
    begin = end;
    pending.fetch_sub(1, std::memory_order_acq_rel);
    if (num_benched > 0) {
      InviteBack(end);
    }
  }
  if (shortest < longest && longest - shortest > kCallerLate) {
    JudgeCaller(longest - shortest);
  }
  WaitForOthers(longest);
}

ThreadPool::ThreadPool(int32_t num_threads)
    : state_(std::make_unique<State>(std::max(num_threads, 1) - 1)) {
  int32_t index = 0;
  for (State::Worker& worker : state_->workers) {
    worker.thread = std::thread([this, &worker] { state_->Work(worker); });
    pthread_setname_np(worker.thread.native_handle(),
                       ("kernel-" + std::to_string(++index)).c_str());
  }
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true, std::memory_order_relaxed);
  ++state_->number;
  for (State::Worker& worker : state_->workers) {
    state_->Wake(worker);
  }
  for (State::Worker& worker : state_->workers) {
    worker.thread.join();
  }
}

int32_t ThreadPool::num_threads() const {
  return static_cast<int32_t>(state_->workers.size()) + 1;
}

void ThreadPool::Run(int64_t count, int64_t grain, PieceFn fn, const void* context) {
  if (count <= 0) {
    return;
  }
  State& state = *state_;
  const int64_t num_pieces = CeilDiv(count, grain);
  if (num_pieces == 1 || state.workers.empty() ||
      num_pieces > std::numeric_limits<int32_t>::max()) {
    for (int64_t first = 0; first < count; first += grain) {
      fn(context, first, std::min(count, first + grain));
    }
    return;
  }
  state.loop = {fn, context, count, grain, static_cast<uint32_t>(num_pieces)};
  state.pending.store(state.loop.num_pieces, std::memory_order_relaxed);
  ++state.number;
  state.ticket.store(uint64_t{state.number} << 32 | state.loop.num_pieces,
                     std::memory_order_release);
  state.Invite();
  state.RunPieces();
}

}  // namespace ringserve
