// Sessions of a fake engine with a disk tier in a folder of the test's, which tells what a
// session's text must be.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/session_files.h"
#include "tests/support/session_run.h"
#include "tests/support/temp_dir.h"

namespace ringserve {

inline constexpr int64_t kAmple = int64_t{1} << 30;

inline FakeEngineOptions SmallPool() {
  FakeEngineOptions options;
  options.device_blocks = 6;  // a session and a half
  options.sessions.max_sessions = 100;
  return options;
}

// A folder and an engine that has it, until the engine is stopped.
class DiskWorld {
 public:
  explicit DiskWorld(FakeEngineOptions options = SmallPool(),
                     int64_t max_bytes = kAmple,
                     SessionFiles::Write write = {})
      : options_(std::move(options)), max_bytes_(max_bytes), write_(std::move(write)) {
    Start();
  }

  // A kill, if nothing was saved before.
  void Stop() {
    engine_.reset();
    io_.reset();
    files_.reset();
  }

  void Start() {
    auto files = SessionFiles::Open(folder_.path(), {.write = write_, .syncs = false});
    REQUIRE(files.ok());
    files_ = *std::move(files);
    io_ = std::make_unique<ManualIo>();
    options_.disk = {
        .files = files_.get(), .max_bytes = max_bytes_, .reads = io_.get(), .writes = io_.get()};
    options_.io = io_.get();
    options_.session_prefix += "s";  // ids of their own
    engine_ = std::make_unique<FakeEngine>(options_);
  }

  void Save() {
    io_->is_inline = true;
    while (io_->RunOne()) {
    }
    engine_->loop().EndAll(absl::CancelledError("stopped"));
    engine_->loop().SaveSessions();
  }

  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  // A session with a text of that many tokens and more.
  std::string Make(size_t num_tokens) {
    std::string id = engine_->Create()->id;
    Turn(id, num_tokens);
    return id;
  }

  void Turn(const std::string& id, size_t num_tokens, int32_t max_tokens = 3) {
    ++last_id_;
    const SessionShape& shape = options_.shape;
    const Transcript got =
        CheckTurn(*engine_,
                  TurnRequest(last_id_, id, SeededTokens(last_id_, num_tokens), max_tokens),
                  shape,
                  texts_[id]);
    // All but the last token of its last answer was there.
    const auto before = static_cast<int64_t>(texts_[id].size() - num_tokens - got.tokens.size());
    CHECK(got.finished->usage.cached_tokens >= before - 1);
  }

  // Submits a turn; what it is answered.
  absl::Status StatusOfTurn(const std::string& id, size_t num_tokens) {
    ++last_id_;
    REQUIRE(engine_->loop()
                .Submit(TurnRequest(last_id_, id, SeededTokens(last_id_, num_tokens), 3))
                .ok());
    RunUntilIdle(*engine_);
    const Transcript got = engine_->sink().Take(last_id_);
    REQUIRE(got.has_ended());
    return got.failed.has_value() ? got.failed->status : absl::OkStatus();
  }

  void Settle() { RunUntilIdle(*engine_); }

  FakeEngine& engine() { return *engine_; }

  ManualIo& io() { return *io_; }

  DiskCounts disk() const { return engine_->loop().load().disk; }

  std::string PathOf(const std::string& id) const { return folder_ / (id + ".session"); }

  std::map<std::string, std::vector<int32_t>>& texts() { return texts_; }

  const std::string& folder() const { return folder_.path(); }

  uint64_t last_id() const { return last_id_; }

 private:
  TempDir folder_;
  FakeEngineOptions options_;
  const int64_t max_bytes_;
  const SessionFiles::Write write_;
  std::unique_ptr<SessionFiles> files_;
  std::unique_ptr<ManualIo> io_;
  std::unique_ptr<FakeEngine> engine_;
  std::map<std::string, std::vector<int32_t>> texts_;
  uint64_t last_id_ = 0;
};

// Makes the session that was idle for longest leave: another needs the memory.
inline void Push(DiskWorld& world) {
  const std::string id = world.Make(29);
  world.Settle();
  REQUIRE(world.engine().Close(id).ok());
}

}  // namespace ringserve
