#include "engine/model/model_identity.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <span>
#include <string_view>
#include <sys/stat.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>

#include "engine/base/checksum.h"

namespace ringserve {
namespace {

constexpr int64_t kPieceBytes = int64_t{4} << 20;
constexpr unsigned kMaxThreads = 16;

class File {
 public:
  static absl::StatusOr<File> Open(const std::string& path) {
    File file;
    file.descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat about = {};
    if (file.descriptor_ < 0 || fstat(file.descriptor_, &about) != 0) {
      return absl::InvalidArgumentError(
          fmt::format("{}: {}", path, std::generic_category().message(errno)));
    }
    file.bytes_ = about.st_size;
    file.path_ = path;
    return file;
  }

  File() = default;

  File(const File&) = delete;
  File& operator=(const File&) = delete;

  File(File&& from) noexcept
      : descriptor_(std::exchange(from.descriptor_, -1)),
        bytes_(from.bytes_),
        path_(std::move(from.path_)) {}

  File& operator=(File&& from) noexcept {
    std::swap(descriptor_, from.descriptor_);
    std::swap(bytes_, from.bytes_);
    std::swap(path_, from.path_);
    return *this;
  }

  ~File() {
    if (descriptor_ >= 0) {
      close(descriptor_);
    }
  }

  int64_t bytes() const { return bytes_; }

  const std::string& path() const { return path_; }

  // False: the file is shorter than it was, or cannot be read.
  bool Read(int64_t at, std::span<std::byte> to) const {
    while (!to.empty()) {
      const ssize_t got = pread(descriptor_, to.data(), to.size(), at);
      if (got <= 0) {
        return false;
      }
      at += got;
      to = to.subspan(static_cast<size_t>(got));
    }
    return true;
  }

 private:
  int descriptor_ = -1;
  int64_t bytes_ = 0;
  std::string path_;
};

bool Counts(std::string_view name) {
  constexpr std::string_view kNames[] = {
      "config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames) ||
         name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
}

// In the order of their names.
absl::StatusOr<std::vector<std::string>> FilesOf(const std::string& model_dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator at(model_dir, error), end; !error && at != end;
       at.increment(error)) {
    std::string name = at->path().filename().string();
    if (Counts(name)) {
      names.push_back(std::move(name));
    }
  }
  if (error) {
    return absl::NotFoundError(fmt::format("{}: {}", model_dir, error.message()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct Piece {
  size_t file = 0;
  int64_t at = 0;
  int64_t bytes = 0;
};

uint64_t ChecksumOfText(std::string_view text, uint64_t seed) {
  return Checksum(std::as_bytes(std::span(text.data(), text.size())), seed);
}

}  // namespace

absl::StatusOr<uint64_t> IdentifyModel(const std::string& model_dir) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, FilesOf(model_dir));
  std::vector<File> files;
  std::vector<Piece> pieces;
  uint64_t sum = 0;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(File file, File::Open(fmt::format("{}/{}", model_dir, name)));
    sum = ChecksumOfText(fmt::format("{} {}", name, file.bytes()), sum);
    for (int64_t at = 0; at < file.bytes(); at += kPieceBytes) {
      pieces.push_back({files.size(), at, std::min(kPieceBytes, file.bytes() - at)});
    }
    files.push_back(std::move(file));
  }
  std::vector<uint64_t> sums(pieces.size());
  std::atomic<size_t> next = 0;
  std::atomic<size_t> failed = files.size();
  const auto work = [&] {
    std::vector<std::byte> buffer(static_cast<size_t>(kPieceBytes));
    for (size_t i = next++; i < pieces.size(); i = next++) {
      const std::span<std::byte> bytes =
          std::span(buffer).first(static_cast<size_t>(pieces[i].bytes));
      if (!files[pieces[i].file].Read(pieces[i].at, bytes)) {
        failed = pieces[i].file;
        return;
      }
      sums[i] = Checksum(bytes);
    }
  };
  const size_t num_threads = std::min<size_t>(
      {pieces.size(), kMaxThreads, std::max(std::thread::hardware_concurrency(), 1U)});
  std::vector<std::thread> threads;
  for (size_t i = 1; i < num_threads; ++i) {
    threads.emplace_back(work);
  }
  work();
  for (std::thread& thread : threads) {
    thread.join();
  }
  if (failed < files.size()) {
    return absl::InvalidArgumentError(fmt::format("{}: cannot be read", files[failed].path()));
  }
  return Checksum(std::as_bytes(std::span(sums)), sum);
}

}  // namespace ringserve
