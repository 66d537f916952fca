// Random operations on an engine, one thread, a clock that stands still, a disk that works when it
// is told to: every request ends exactly once and is answered with what its own text demands, a
// session's text is what its turns, forks and rollbacks made it, wherever its blocks lie and
// whoever shares them, in a file, exported, imported or after a restart; blocks never leak. A
// failure prints its seed; RINGSERVE_SIMULATION_SEED replays one, and RINGSERVE_SIMULATION_SEEDS
// sets how many are run (13000 are a million operations).
#include "tests/engine/engine_simulation.h"

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>

#include "tests/support/catch.h"

namespace ringserve {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(NDEBUG)
constexpr uint64_t kDefaultSeeds = 500;  // these builds are many times slower
#else
constexpr uint64_t kDefaultSeeds = 10000;
#endif

std::optional<uint64_t> Variable(const char* name) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): before any thread
  return text == nullptr ? std::nullopt : std::optional<uint64_t>(std::stoull(text));
}

TEST_CASE("random operations leave every answer as its text demands") {
  const std::optional<uint64_t> one = Variable("RINGSERVE_SIMULATION_SEED");
  const uint64_t first = one.value_or(0);
  const uint64_t count =
      one.has_value() ? 1 : Variable("RINGSERVE_SIMULATION_SEEDS").value_or(kDefaultSeeds);
  int64_t num_operations = 0;
  int64_t num_drafted = 0;
  int64_t num_accepted = 0;
  int64_t num_waited = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    CAPTURE(seed);
    Simulation simulation(seed);
    simulation.Run();
    num_operations += simulation.num_operations();
    num_drafted += simulation.load().drafted_tokens;
    num_accepted += simulation.load().accepted_tokens;
    num_waited += simulation.num_waited();
  }
  WARN(num_operations << " operations; " << num_drafted << " tokens drafted, " << num_accepted
                      << " held; " << num_waited << " forks and rollbacks waited");
  if (!one.has_value()) {
    CHECK(num_accepted > 0);
    CHECK(num_waited > 0);
    CHECK(num_drafted > num_accepted);
  }
}

}  // namespace
}  // namespace ringserve
