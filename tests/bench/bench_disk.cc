#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fcntl.h>
#include <filesystem>
#include <string>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>

#include "engine/session_files.h"
#include "tests/bench/bench_engine.h"
#include "tests/bench/bench_kernels.h"
#include "tests/bench/bench_sessions.h"
#include "tests/bench/bench_shape.h"

namespace ringserve {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// As in bench_resume.cc.
constexpr char kShape[] = "hidden=64,layers=16,heads=8,kv_heads=8,head_dim=64,ffn=64,vocab=256";
constexpr int64_t kBlockSize = 64;
constexpr int64_t kBlockBytes = kBlockSize * 16 * 8 * 64 * 2 * 2;
constexpr size_t kPlainPiece = size_t{4} << 20;

// Removed with its owner.
struct Folder {
  explicit Folder(const std::string& parent)
      : path(fs::path(parent) / fmt::format("ringserve-bench-{}", getpid())) {
    fs::create_directory(path);
  }

  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }

  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const fs::path path;
};

double GbPerSecond(int64_t bytes, Clock::time_point begin) {
  const std::chrono::duration<double> took = Clock::now() - begin;
  return 1e-9 * static_cast<double>(bytes) / took.count();
}

// What of the files' bytes the system still has in memory it gives up.
void ForgetPages(const fs::path& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) {
      const FileDescriptor file(open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
      posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    }
  }
}

// A file without sessions, checksums or an engine.
class PlainFile {
 public:
  PlainFile(fs::path path, int64_t bytes)
      : path_(std::move(path)), bytes_(bytes), piece_(kPlainPiece, 'x') {}

  absl::StatusOr<double> Write() const {
    const auto begin = Clock::now();
    {
      const FileDescriptor file(
          open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, S_IRUSR | S_IWUSR));
      for (int64_t left = bytes_; left > 0;) {
        const ssize_t count =
            write(file.get(), piece_.data(), std::min<size_t>(piece_.size(), left));
        if (count <= 0) {
          return absl::InternalError("the plain file cannot be written");
        }
        left -= count;
      }
      if (fsync(file.get()) != 0) {
        return absl::InternalError("the plain file cannot be synced");
      }
    }
    return GbPerSecond(bytes_, begin);
  }

  absl::StatusOr<double> Read() {
    ForgetPages(path_.parent_path());
    const auto begin = Clock::now();
    const FileDescriptor file(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    for (int64_t left = bytes_; left > 0;) {
      const ssize_t count = read(file.get(), piece_.data(), std::min<size_t>(piece_.size(), left));
      if (count <= 0) {
        return absl::InternalError("the plain file cannot be read");
      }
      left -= count;
    }
    return GbPerSecond(bytes_, begin);
  }

 private:
  const fs::path path_;
  const int64_t bytes_;
  std::string piece_;
};

EngineConfig Config(const SessionsBenchOptions& options, const fs::path& folder) {
  // Two turns of a round add two tokens each.
  const int64_t num_tokens = options.resume_tokens + 4 * int64_t{options.rounds};
  const int64_t num_blocks = CeilDiv(num_tokens, kBlockSize) + 1;
  EngineConfig config;
  config.rings = {.buffer_size = num_blocks * kBlockSize, .block_size = kBlockSize};
  config.attention = {.tile_size = kBlockSize};
  config.scheduler = {.prefill_size = 512, .max_batch = 1, .max_queue = 16};
  config.memory.device_bytes = num_blocks * kBlockBytes;
  config.memory.disk_path = folder.string();
  config.memory.disk_bytes = int64_t{1} << 40;
  config.sessions = {.max_sessions = 16};
  config.num_threads = options.num_threads;
  return config;
}

// Seconds until a request that needs the whole pool has its first token; then it is gone.
absl::StatusOr<double> TakeAll(BenchEngine& bench) {
  const auto most = static_cast<int32_t>(bench.engine().config().rings.buffer_size - 1);
  const uint64_t id = bench.Submit({.num_tokens = 1, .max_tokens = most});
  bench.WaitForTokens(id, 1);
  bench.engine().Cancel(id);
  const BenchStream stream = bench.Wait(id);
  if (stream.tokens.empty()) {
    return stream.status;
  }
  return stream.FirstTokenSeconds();
}

// One session goes to its file and comes back.
absl::Status Round(BenchEngine& bench,
                   const std::string& id,
                   const fs::path& folder,
                   PlainFile& plain,
                   BenchSeries& leaves,
                   BenchSeries& returns) {
  ASSIGN_OR_RETURN(const double write_before, plain.Write());
  ASSIGN_OR_RETURN(const double left, TakeAll(bench));
  const int64_t bytes = bench.engine().load().disk.bytes;
  if (bytes == 0) {
    return absl::InternalError("the session did not go to the disk");
  }
  ASSIGN_OR_RETURN(const double write_after, plain.Write());
  leaves.speed.push_back(1e-9 * static_cast<double>(bytes) / left);
  leaves.ceiling.push_back(std::max(write_before, write_after));
  ASSIGN_OR_RETURN(const double read_before, plain.Read());
  ForgetPages(folder);
  ASSIGN_OR_RETURN(const BenchStream back,
                   bench.Run({.num_tokens = 1, .max_tokens = 1, .session_id = id}));
  ASSIGN_OR_RETURN(const BenchStream warm,
                   bench.Run({.num_tokens = 1, .max_tokens = 1, .session_id = id}));
  ASSIGN_OR_RETURN(const double read_after, plain.Read());
  returns.speed.push_back(1e-9 * static_cast<double>(bytes) /
                          (back.FirstTokenSeconds() - warm.FirstTokenSeconds()));
  returns.ceiling.push_back(std::max(read_before, read_after));
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchDisk(const SessionsBenchOptions& options) {
  const Folder folder(options.disk_folder);
  fs::create_directory(folder.path / "plain");
  ASSIGN_OR_RETURN(const ModelConfig shape, ParseShape(kShape));
  ASSIGN_OR_RETURN(const auto bench,
                   BenchEngine::Create(shape, Config(options, folder.path / "sessions")));
  ASSIGN_OR_RETURN(const SessionInfo session, bench->Ask([&](SessionReply reply) {
    bench->engine().CreateSession("", {}, std::move(reply));
  }));
  RETURN_IF_ERROR(
      bench->Run({.num_tokens = options.resume_tokens, .max_tokens = 1, .session_id = session.id})
          .status());
  PlainFile plain(folder.path / "plain" / "file",
                  CeilDiv(options.resume_tokens, kBlockSize) * kBlockBytes);
  BenchSeries leaves = {"to the disk", "GB/s", {}, {}};
  BenchSeries returns = {"from the disk", "GB/s", {}, {}};
  for (int32_t i = 0; i < options.rounds; ++i) {
    RETURN_IF_ERROR(Round(*bench, session.id, folder.path / "sessions", plain, leaves, returns));
  }
  fmt::print("a session of {} tokens, {:.0f} MB, beside a plain file\n",
             options.resume_tokens,
             1e-6 * static_cast<double>(CeilDiv(options.resume_tokens, kBlockSize) * kBlockBytes));
  fmt::print("  {}, written and synced\n  {}, forgotten before\n",
             FormatSeries(leaves),
             FormatSeries(returns));
  return absl::OkStatus();
}

}  // namespace ringserve
