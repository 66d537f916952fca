// Calls on sessions that wait for memory where there is a disk: other sessions go, theirs comes.
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/disk_world.h"

namespace ringserve {
namespace {

using Answer = std::optional<absl::StatusOr<SessionInfo>>;

TEST_CASE("a fork sends others to the disk, and not its source") {
  DiskWorld world;  // 6 blocks
  const std::string source = world.Make(17);
  const std::string idle = world.Make(17);
  const std::vector<int32_t> text = world.texts()[source];
  const absl::StatusOr<SessionInfo> fork = world.engine().Fork(source);
  REQUIRE(fork.ok());
  CHECK(std::filesystem::exists(world.PathOf(idle)));
  CHECK(!std::filesystem::exists(world.PathOf(source)));
  CHECK(world.disk().num_spilled == 1);
  world.texts()[fork->id] = text;
  world.Turn(fork->id, 2);
  world.Turn(source, 1);
  world.Turn(idle, 1);
}

TEST_CASE("a session that alone fills the memory is not sent away for its own fork") {
  FakeEngineOptions options = SmallPool();
  options.device_blocks = 4;
  DiskWorld world(options);
  const std::string source = world.Make(26);
  CHECK(absl::IsResourceExhausted(world.engine().Fork(source).status()));
  CHECK(absl::IsResourceExhausted(world.engine().Fork(source, 9).status()));
  CHECK(world.disk().num_spilled == 0);
  CHECK(world.engine().Rollback(source, 9).ok());
}

TEST_CASE("what needs a session on the disk waits for running requests") {
  for (const bool exports : {false, true}) {
    CAPTURE(exports);
    DiskWorld world;
    const std::string id = world.Make(17);
    Push(world);
    REQUIRE(std::filesystem::exists(world.PathOf(id)));
    FakeEngine& engine = world.engine();
    REQUIRE(engine.loop().Submit(TurnRequest(100, "", SeededTokens(1, 8), 24)).ok());
    engine.loop().Step();
    std::optional<absl::Status> answer;
    std::unique_ptr<SessionExport> leaving;
    if (exports) {
      engine.loop().ExportSession(
          "", id, {}, [&](absl::StatusOr<std::unique_ptr<SessionExport>> begun) {
            answer = begun.status();
            leaving = std::move(begun).value_or(nullptr);
          });
    } else {
      engine.loop().ForkSession(
          "", id, 16, {}, [&](const absl::StatusOr<SessionInfo>& fork) { answer = fork.status(); });
    }
    for (int i = 0; i < 10; ++i) {
      engine.Advance();
    }
    CHECK(!answer.has_value());
    CHECK(engine.loop().load().running == 1);
    RunUntilIdle(engine);
    REQUIRE(answer.has_value());
    CHECK(answer->ok());
    leaving.reset();
    world.Settle();
    world.Turn(id, 1);
  }
}

TEST_CASE("a fork waits until a snapshot is told, and its session can go to the disk") {
  DiskWorld world;
  const std::string source = world.Make(17);
  const std::string other = world.Make(17);
  FakeEngine& engine = world.engine();
  std::unique_ptr<SessionExport> leaving;
  engine.loop().ExportSession(
      "", other, {}, [&](absl::StatusOr<std::unique_ptr<SessionExport>> begun) {
        leaving = *std::move(begun);
      });
  engine.loop().Step();
  REQUIRE(leaving != nullptr);
  Answer fork;
  engine.loop().ForkSession("", source, std::nullopt, {}, [&](absl::StatusOr<SessionInfo> got) {
    fork = std::move(got);
  });
  world.Settle();
  CHECK(!fork.has_value());
  leaving.reset();
  world.Settle();
  REQUIRE(fork.has_value());
  CHECK(fork->ok());
  CHECK(std::filesystem::exists(world.PathOf(other)));
}

}  // namespace
}  // namespace ringserve
