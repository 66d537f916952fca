// What can happen to a session's file: a full disk, damage, a process that is killed.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "tests/support/disk_world.h"

namespace ringserve {
namespace {

TEST_CASE("a full disk is a state: nothing is lost, and who needs memory is told") {
  DiskWorld world(SmallPool(), /*max_bytes=*/20'000);
  std::vector<std::string> ids;
  int num_refused = 0;
  for (int i = 0; i < 30; ++i) {
    const std::string id = world.engine().Create()->id;
    const absl::Status status = world.StatusOfTurn(id, 20);
    if (status.ok()) {
      ids.push_back(id);
    } else {
      ++num_refused;
      CHECK(absl::IsResourceExhausted(status));
      REQUIRE(world.engine().Close(id).ok());
    }
  }
  CHECK(num_refused > 0);
  CHECK(ids.size() > 2);
  CHECK(world.disk().is_full);
  CHECK(world.disk().bytes <= 20'000);
  const size_t num_sessions = ids.size();
  CHECK(world.engine().List()->size() == num_sessions);
  // Room comes free, and all goes on.
  const size_t half = num_sessions / 2;
  for (size_t i = 0; i < half; ++i) {
    REQUIRE(world.engine().Close(ids[i]).ok());
  }
  for (size_t i = half; i < num_sessions; ++i) {
    CHECK(world.StatusOfTurn(ids[i], 1).ok());
  }
}

TEST_CASE("a write that fails gives the session back") {
  for (int64_t fails_at = 0; fails_at < 6; ++fails_at) {
    CAPTURE(fails_at);
    int64_t num_writes = 0;
    bool is_full = true;
    DiskWorld world(SmallPool(), kAmple, [&](int file, const void* bytes, size_t count) -> ssize_t {
      if (is_full && num_writes++ >= fails_at) {
        errno = ENOSPC;
        return -1;
      }
      return write(file, bytes, std::min<size_t>(count, 300));  // in parts
    });
    const std::string id = world.Make(20);
    const std::string stateless;
    CHECK(absl::IsResourceExhausted(world.StatusOfTurn(stateless, 30)));
    CHECK(world.disk().is_full);
    CHECK(world.Files().empty());
    world.Turn(id, 1);
    is_full = false;
    CHECK(absl::IsResourceExhausted(world.StatusOfTurn(stateless, 30)));  // too soon
    world.engine().Sleep(absl::Seconds(11));
    CHECK(world.StatusOfTurn(stateless, 30).ok());
    CHECK_FALSE(world.disk().is_full);
    world.Turn(id, 1);
  }
}

TEST_CASE("a damaged file is the end of its session, and of no other") {
  const auto damage = [](const std::string& path, int how) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    const auto bytes = static_cast<int64_t>(std::filesystem::file_size(path));
    if (how == 0) {
      std::filesystem::remove(path);
    } else if (how == 1) {
      std::filesystem::resize_file(path, static_cast<uintmax_t>(bytes / 2));
    } else {
      const int64_t at = bytes * (how - 2) / 20;
      file.seekg(at);
      const int byte = file.get();
      file.seekp(at);
      file.put(static_cast<char>(byte ^ 4));
    }
  };
  for (const bool restarts : {false, true}) {
    for (int how = 0; how < 22; ++how) {
      CAPTURE(restarts, how);
      DiskWorld world;
      const std::string id = world.Make(20);
      const std::string other = world.Make(10);
      if (restarts) {
        world.Save();
        world.Stop();
      } else {
        Push(world);
      }
      REQUIRE(std::filesystem::exists(world.PathOf(id)));
      damage(world.PathOf(id), how);
      if (restarts) {
        world.Start();
      }
      const absl::Status status = world.StatusOfTurn(id, 1);
      INFO(status.ToString());
      // What its beginning or its size tells was found at the start.
      CHECK((absl::IsDataLoss(status) || (restarts && absl::IsNotFound(status))));
      CHECK(absl::IsNotFound(world.StatusOfTurn(id, 1)));
      CHECK_FALSE(std::filesystem::exists(world.PathOf(id)));
      world.Turn(other, 1);
      CHECK(world.engine().List()->size() == 1);
    }
  }
}

// The sanitizer asks by a pipe whether an object can be read, and without descriptors finds that it
// cannot.
#if !defined(__SANITIZE_ADDRESS__)
TEST_CASE("a session whose file cannot be opened for want of descriptors stays on the disk") {
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit none = {.rlim_cur = 0, .rlim_max = before.rlim_max};
  DiskWorld world;
  const std::string id = world.Make(20);
  Push(world);
  REQUIRE(std::filesystem::exists(world.PathOf(id)));
  for (int i = 0; i < 3; ++i) {
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    const absl::Status turn = world.StatusOfTurn(id, 1);
    const absl::Status fork = world.engine().Fork(id, 11).status();
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
    INFO(turn.ToString() << ", " << fork.ToString());
    CHECK(absl::IsUnavailable(turn));
    CHECK(absl::IsUnavailable(fork));
    CHECK(std::filesystem::exists(world.PathOf(id)));
    CHECK(world.disk().num_sessions == 1);
    CHECK(world.engine().loop().pool().num_references() == 0);
  }
  world.Turn(id, 1);
  CHECK(world.disk().num_lost == 0);
}
#endif

TEST_CASE("a session whose file cannot be removed stays on the disk") {
  DiskWorld world;
  const std::string id = world.Make(20);
  Push(world);
  const std::string path = world.PathOf(id);
  const std::string aside = world.folder() + "/aside";
  REQUIRE(world.engine().loop().Submit(TurnRequest(100, id, SeededTokens(1, 2), 2)).ok());
  world.engine().loop().Step();
  REQUIRE(world.io().RunOne());  // it is read
  world.engine().loop().Step();
  std::filesystem::rename(path, aside);
  std::filesystem::create_directory(path);
  REQUIRE(world.io().RunOne());
  world.Settle();
  const Transcript got = world.engine().sink().Take(100);
  REQUIRE(got.failed.has_value());
  CHECK(absl::IsUnavailable(got.failed->status));
  CHECK(world.disk().num_sessions == 1);
  CHECK(world.engine().loop().pool().num_references() == 0);
  std::filesystem::remove(path);
  std::filesystem::rename(aside, path);
  world.Turn(id, 1);
  CHECK(world.Files().empty());
}

TEST_CASE("a folder is one process's, and files of other models stay where they are") {
  DiskWorld world;
  const std::string id = world.Make(20);
  CHECK(absl::IsFailedPrecondition(SessionFiles::Open(world.folder()).status()));
  world.Save();
  world.Stop();
  {
    auto files = *SessionFiles::Open(world.folder());
    ManualIo io;
    FakeEngineOptions options = SmallPool();
    options.model = 2;
    options.disk = {.files = files.get(), .max_bytes = kAmple, .reads = &io, .writes = &io};
    FakeEngine other(options);
    CHECK(other.List()->empty());
    CHECK(other.loop().load().refused_files == 1);
  }
  world.Start();
  world.Turn(id, 1);
}

// What was said in a process that was killed, as its log tells: the last text of each session.
std::map<std::string, std::vector<int32_t>> ReadLog(const std::string& path) {
  std::map<std::string, std::vector<int32_t>> texts;
  std::ifstream file(path);
  std::string id;
  size_t count = 0;
  while (file >> id >> count) {
    std::vector<int32_t> text(count);
    for (int32_t& token_id : text) {
      file >> token_id;
    }
    std::string end;
    if (!(file >> end) || end != "end") {
      break;
    }
    texts[id] = text;
  }
  return texts;
}

TEST_CASE("after kill -9 in the middle of a write each file is the session or is refused") {
  int num_found = 0;
  for (int64_t dies_at = 1; dies_at < 60; dies_at += 2) {
    CAPTURE(dies_at);
    TempDir folder;
    const std::string log = folder / "log";
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      int64_t num_writes = 0;
      auto files = *SessionFiles::Open(
          folder / "sessions", {.write = [&](int file, const void* bytes, size_t count) -> ssize_t {
            const ssize_t written = write(file, bytes, std::min<size_t>(count, 900));
            if (++num_writes == dies_at) {
              kill(getpid(), SIGKILL);
            }
            return written;
          }});
      ManualIo io;
      FakeEngineOptions options = SmallPool();
      options.disk = {.files = files.get(), .max_bytes = kAmple, .reads = &io, .writes = &io};
      options.io = &io;
      FakeEngine engine(options);
      std::map<std::string, std::vector<int32_t>> texts;
      std::vector<std::string> ids;
      for (int i = 0; i < 4; ++i) {
        ids.push_back(engine.Create()->id);
      }
      for (uint64_t turn = 1; turn < 100; ++turn) {
        const std::string& id = ids[turn * 3 % ids.size()];
        if (texts[id].size() < 24) {
          CheckTurn(
              engine, TurnRequest(turn, id, SeededTokens(turn, 4), 2), options.shape, texts[id]);
        }
        std::ofstream file(log, std::ios::app);
        file << id << ' ' << texts[id].size();
        for (const int32_t token_id : texts[id]) {
          file << ' ' << token_id;
        }
        file << " end\n";
      }
      _exit(0);
    }
    int how = 0;
    REQUIRE(waitpid(child, &how, 0) == child);
    REQUIRE((WIFSIGNALED(how) ? WTERMSIG(how) == SIGKILL : WEXITSTATUS(how) == 0));
    const auto texts = ReadLog(log);
    auto files = *SessionFiles::Open(folder / "sessions");
    ManualIo io;
    FakeEngineOptions options = SmallPool();
    options.disk = {.files = files.get(), .max_bytes = kAmple, .reads = &io, .writes = &io};
    options.io = &io;
    options.session_prefix = "new";
    FakeEngine engine(options);
    CHECK(engine.loop().load().refused_files == 0);
    uint64_t turn = 1000;
    const std::vector<SessionInfo> infos = *engine.List();
    for (const SessionInfo& info : infos) {
      ++num_found;
      // Never an old state: what was told to the client is there.
      std::vector<int32_t> text = texts.at(info.id);
      REQUIRE(info.position == static_cast<int64_t>(text.size()));
      CheckTurn(engine, TurnRequest(++turn, info.id, {1, 2}, 2), options.shape, text);
    }
  }
  CHECK(num_found > 20);
}

}  // namespace
}  // namespace ringserve
