// Sessions that go to files and come back.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/disk_world.h"

namespace ringserve {
namespace {

TEST_CASE("sessions that do not fit in memory go on from the disk, to the bit") {
  for (const int32_t host_blocks : {0, 5}) {
    FakeEngineOptions options = SmallPool();
    options.host_blocks = host_blocks;
    DiskWorld world(options);
    std::vector<std::string> ids(8);
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = world.Make(5 + i);
    }
    for (size_t round = 0; round < 3; ++round) {
      for (size_t i = 0; i < ids.size(); ++i) {
        world.Turn(ids[(i * 5 + round) % ids.size()], 1 + i % 2);
      }
    }
    const DiskCounts disk = world.disk();
    CHECK(disk.num_spilled > 8);
    CHECK(disk.num_restored > 8);
    CHECK(disk.num_lost == 0);
    CHECK(static_cast<int64_t>(world.Files().size()) == disk.num_sessions);
    CHECK(world.engine().List()->size() == ids.size());
    for (const std::string& id : ids) {
      const absl::StatusOr<SessionInfo> info = world.engine().Close(id);
      REQUIRE(info.ok());
      CHECK(info->position == static_cast<int64_t>(world.texts()[id].size()));
      CHECK(info->counters.turns == 4);
    }
    world.Settle();
    CHECK(world.Files().empty());
    CHECK(world.disk().bytes == 0);
    CHECK(world.engine().loop().pool().num_references() == 0);
  }
}

TEST_CASE("forks, rollbacks and exports bring a session back") {
  DiskWorld world;
  const std::string id = world.Make(20);
  const std::vector<int32_t> text = world.texts()[id];
  const auto leave = [&] {
    Push(world);
    REQUIRE(std::filesystem::exists(world.PathOf(id)));
  };
  leave();
  const absl::StatusOr<SessionInfo> fork = world.engine().Fork(id, 11);
  REQUIRE(fork.ok());
  world.texts()[fork->id] = std::vector<int32_t>(text.begin(), text.begin() + 11);
  world.Turn(fork->id, 2);
  REQUIRE(world.engine().Close(fork->id).ok());
  leave();
  const absl::StatusOr<std::string> bytes = world.engine().Export(id);
  REQUIRE(bytes.ok());
  FakeEngine abroad(SmallPool());
  CHECK(abroad.Import(*bytes)->position == static_cast<int64_t>(text.size()));
  leave();
  REQUIRE(world.engine().Rollback(id, 7).ok());
  world.texts()[id].resize(7);
  world.Turn(id, 2);
}

TEST_CASE("calls that wait for sessions on the disk are answered when the engine ends") {
  DiskWorld world;
  std::vector<std::string> ids;
  for (int i = 0; i < 2; ++i) {
    ids.push_back(world.Make(20));
    Push(world);
  }
  std::vector<absl::Status> answers;
  for (const std::string& id : ids) {  // one is on its way back, the other waits for that
    REQUIRE(std::filesystem::exists(world.PathOf(id)));
    world.engine().loop().ForkSession("", id, 11, {}, [&](const absl::StatusOr<SessionInfo>& fork) {
      answers.push_back(fork.status());
    });
  }
  world.engine().loop().Step();
  CHECK(answers.empty());
  world.engine().loop().EndAll(absl::CancelledError("the engine has stopped"));
  CHECK(answers.size() == 2);
  for (const absl::Status& answer : answers) {
    CHECK(absl::IsCancelled(answer));
  }
  world.Save();
}

TEST_CASE("sessions outlive their server") {
  for (const bool slides : {false, true}) {
    FakeEngineOptions options = SmallPool();
    if (slides) {
      options.shape = {
          .buffer_size = 24, .block_size = 8, .sink_size = 3, .feedback_size = 24, .slides = true};
    }
    DiskWorld world(options);
    std::vector<std::string> ids = {world.engine().Create()->id};  // one without a text
    for (size_t i = 1; i < 7; ++i) {
      ids.push_back(world.Make(2 + 2 * i));
    }
    const SessionInfo before = *world.engine().Get(ids[3]);
    for (int restart = 0; restart < 3; ++restart) {
      world.Save();
      world.Stop();
      world.Start();
      CHECK(world.engine().List()->size() == ids.size());
      for (const std::string& id : ids) {
        world.Turn(id, 1);
      }
    }
    const SessionInfo after = *world.engine().Get(ids[3]);
    CHECK(after.created == before.created);
    CHECK(after.counters.turns == before.counters.turns + 3);
    CHECK(world.engine().Get(ids[3], "bob").status().code() == absl::StatusCode::kNotFound);
  }
}

TEST_CASE("a turn that comes while its session leaves takes it back, at every point") {
  for (int num_done = 0; num_done < 12; ++num_done) {
    CAPTURE(num_done);
    DiskWorld world;
    const std::string id = world.Make(20);
    const std::string other = world.Make(2);
    world.Make(10);
    // Needs more than there is: the first is to leave.
    REQUIRE(world.engine().loop().Submit(TurnRequest(100, other, SeededTokens(1, 26), 2)).ok());
    for (int i = 0; i < num_done; ++i) {
      world.engine().loop().Step();
      world.io().RunOne();
    }
    world.Turn(id, 2);
    world.Settle();
    const Transcript got = world.engine().sink().Take(100);
    REQUIRE(got.finished.has_value());
    world.texts().erase(other);
    world.Turn(id, 1);
    CHECK(world.engine().List()->size() == 3);
    CHECK(static_cast<int64_t>(world.Files().size()) == world.disk().num_sessions);
  }
}

TEST_CASE("a session that is closed on its way leaves nothing, at every point") {
  for (const bool returns : {false, true}) {
    for (int num_done = 0; num_done < 12; ++num_done) {
      CAPTURE(returns, num_done);
      DiskWorld world;
      const std::string id = world.Make(20);
      if (returns) {
        Push(world);
        REQUIRE(world.engine().loop().Submit(TurnRequest(100, id, {1}, 1)).ok());
      } else {
        REQUIRE(world.engine().loop().Submit(TurnRequest(100, "", SeededTokens(1, 32), 1)).ok());
      }
      for (int i = 0; i < num_done; ++i) {
        world.engine().loop().Step();
        world.io().RunOne();
      }
      REQUIRE(world.engine().Close(id).ok());
      world.Settle();
      CHECK(world.Files().empty());
      CHECK(world.disk().bytes == 0);
      CHECK(world.disk().num_sessions == 0);
      CHECK(world.engine().loop().pool().num_references() == 0);
      CHECK(world.engine().sink().Take(100).has_ended());
    }
  }
}

}  // namespace
}  // namespace ringserve
