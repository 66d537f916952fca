// Memory that the standard library asks for and does not get while an engine starts: the start ends
// with an error or std::bad_alloc, which main turns into a message and exit code 1, and in no other
// way. Each start is a process of its own, for one that dies or waits for ever must be seen.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

#include "tests/support/engine_run.h"
#include "tests/support/reading_requests.h"

namespace {

// Allocations until one fails; below 0: none does.
std::atomic<int64_t> allocations_left{-1};
// Allocations of so many bytes or more, since these were last set.
std::atomic<std::size_t> watched_size{0};
std::atomic<int64_t> num_of_size{0};
std::atomic<int64_t> num_larger{0};

void Watch(std::size_t size) {
  num_of_size = 0;
  num_larger = 0;
  watched_size = size;
}

void* Allocate(std::size_t size, std::size_t alignment) {
  num_of_size += size == watched_size ? 1 : 0;
  num_larger += size > watched_size ? 1 : 0;
  int64_t left = allocations_left.load();
  while (left >= 0 && !allocations_left.compare_exchange_weak(left, left - 1)) {
  }
  void* const memory = left == 0
                           ? nullptr
                           : std::aligned_alloc(alignment,
                                                (size + alignment - 1) / alignment * alignment +
                                                    (size == 0 ? alignment : 0));
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}

}  // namespace

void* operator new(std::size_t size) {
  return Allocate(size, alignof(std::max_align_t));
}

void* operator new(std::size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<std::size_t>(alignment));
}

// The standard library's own would do, but a sanitizer has one, which does not go with this delete.
void* operator new(std::size_t size, const std::nothrow_t& /*tag*/) noexcept {
  try {
    return operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// NOLINTBEGIN(cppcoreguidelines-owning-memory): this is what owns.
void operator delete(void* memory) noexcept {
  std::free(memory);
}

void operator delete(void* memory, std::size_t /*size*/) noexcept {
  std::free(memory);
}

void operator delete(void* memory, std::align_val_t /*alignment*/) noexcept {
  std::free(memory);
}

void operator delete(void* memory, std::size_t /*size*/, std::align_val_t /*alignment*/) noexcept {
  std::free(memory);
}

// NOLINTEND(cppcoreguidelines-owning-memory)

namespace ringserve {
namespace {

enum Outcome { kStarted = 10, kRefused = 11, kNoMemory = 12 };

// Never returns: exits with the outcome.
[[noreturn]] void StartWithout(int64_t allocation) {
  alarm(120);
  FakeSink sink;
  Engine::Options options;
  options.config = FairytaleConfig();
  options.config.scheduler.max_batch = 1;
  options.config.num_threads = 1;
  Outcome outcome = kNoMemory;
  try {
    allocations_left = allocation;
    const absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(std::move(options), sink);
    allocations_left = -1;
    outcome = engine.ok() ? kStarted : kRefused;
  } catch (const std::bad_alloc&) {
    allocations_left = -1;
  }
  _exit(outcome);
}

TEST_CASE("embeddings take the host memory that is planned for them, at start and no more later") {
  const EngineConfig config = FairytaleConfig();
  const absl::StatusOr<MemoryPlan> plan = Engine::Plan(config);
  REQUIRE(plan.ok());
  const auto planned = static_cast<std::size_t>(plan->hidden_bytes);
  CHECK(planned == sizeof(float) * 256 * (512 + 8));  // of the rows of a step
  FakeSink sink;
  Watch(planned);
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  CHECK(num_of_size == 1);
  Watch(planned / 4);
  const std::vector<int32_t> input(512, 9);
  for (uint64_t id = 1; id <= 3; ++id) {
    REQUIRE(engine->Submit(EmbedRequest(id, {input}, {.pooling = Pooling::kMean})).ok());
    sink.AwaitEnd(id);
    REQUIRE(sink.transcript(id).finished.has_value());
  }
  CHECK(num_of_size + num_larger == 0);
}

TEST_CASE("whichever allocation fails while an engine starts, the start ends and says so") {
  // Each of the first, and some of those that come later, up to where the engine stands.
  bool has_started = false;
  for (int64_t allocation = 0; !has_started; allocation += allocation < 50 ? 1 : allocation / 2) {
    CAPTURE(allocation);
    const pid_t pid = fork();
    if (pid == 0) {
      StartWithout(allocation);
    }
    REQUIRE(pid > 0);
    int status = 0;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    REQUIRE(WIFEXITED(status));
    has_started = WEXITSTATUS(status) == kStarted;
    REQUIRE((has_started || WEXITSTATUS(status) == kNoMemory || WEXITSTATUS(status) == kRefused));
    REQUIRE((!has_started || allocation > 50));
  }
}

}  // namespace
}  // namespace ringserve
