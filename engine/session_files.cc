#include "engine/session_files.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include <fmt/format.h>

namespace ringserve {
namespace {

constexpr char kWhole[] = ".session";
constexpr char kPart[] = ".part";

absl::Status Failed(const std::string& what) {
  const int error = errno;
  const std::string message = fmt::format("{}: {}", what, std::generic_category().message(error));
  const bool is_full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return is_full ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
}

absl::Status NotRead(int error) {
  return error == ENOENT
             ? absl::NotFoundError("there is no such file")
             : absl::UnavailableError(fmt::format("reading a session's file: {}",
                                                  std::generic_category().message(error)));
}

}  // namespace

FileDescriptor::FileDescriptor(FileDescriptor&& from) noexcept
    : descriptor_(std::exchange(from.descriptor_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& from) noexcept {
  std::swap(descriptor_, from.descriptor_);
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (descriptor_ >= 0) {
    close(descriptor_);
  }
}

SessionFiles::SessionFiles(std::string directory, FileDescriptor folder, Options options)
    : directory_(std::move(directory)), folder_(std::move(folder)), options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<SessionFiles>> SessionFiles::Open(const std::string& directory,
                                                                 Options options) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return absl::InvalidArgumentError(
        fmt::format("memory.disk_path: {}: {}", directory, error.message()));
  }
  // Others have no business with what people said.
  std::filesystem::permissions(directory, std::filesystem::perms::owner_all, error);
  FileDescriptor folder(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) {
    return Failed(fmt::format("memory.disk_path: {}", directory));
  }
  if (flock(folder.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        fmt::format("memory.disk_path: {} belongs to another process", directory));
  }
  if (!options.write) {
    options.write = ::write;
  }
  auto files = std::unique_ptr<SessionFiles>(
      new SessionFiles(directory, std::move(folder), std::move(options)));
  for (std::filesystem::directory_iterator at(directory, error), end; !error && at != end;
       at.increment(error)) {
    if (at->path().extension() == kPart) {
      unlink(at->path().c_str());
    }
  }
  return files;
}

std::string SessionFiles::PathOf(const std::string& id, const char* suffix) const {
  return directory_ + "/" + id + suffix;
}

absl::Status SessionFiles::SyncFolder() const {
  return !options_.syncs || fsync(folder_.get()) == 0 ? absl::OkStatus() : Failed(directory_);
}

absl::Status SessionFiles::Remove(const std::string& id) const {
  const std::string path = PathOf(id, kWhole);
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return Failed(path);
  }
  return SyncFolder();
}

absl::StatusOr<SessionFiles::Found> SessionFiles::ReadBeginning(
    const std::string& id, const SnapshotKey& key, const SnapshotReader::ShapeOf& shape_of) const {
  constexpr size_t kPieceBytes = 4096;
  SnapshotReader reader(key, shape_of);
  Reader file(*this, id);
  for (;;) {
    ASSIGN_OR_RETURN(const std::string piece, file.Read(kPieceBytes));
    RETURN_IF_ERROR(reader.Add(piece));
    std::optional<Snapshot> snapshot = reader.TakeSnapshot();
    if (snapshot.has_value()) {
      std::error_code error;
      const auto bytes = std::filesystem::file_size(PathOf(id, kWhole), error);
      if (error || static_cast<int64_t>(bytes) != SnapshotBytes(key, *snapshot) ||
          snapshot->id != id) {
        return absl::DataLossError("its size or its name is not what it says");
      }
      snapshot->image.token_ids = {};
      return Found{.snapshot = *std::move(snapshot), .bytes = static_cast<int64_t>(bytes)};
    }
    if (piece.size() < kPieceBytes) {
      return absl::DataLossError("it ends in its beginning");
    }
  }
}

std::vector<SessionFiles::Found> SessionFiles::Scan(const SnapshotKey& key,
                                                    const SnapshotReader::ShapeOf& shape_of,
                                                    int64_t& num_refused) const {
  std::vector<std::string> ids;
  std::error_code error;
  for (std::filesystem::directory_iterator at(directory_, error), end; !error && at != end;
       at.increment(error)) {
    if (at->path().extension() == kWhole) {
      ids.push_back(at->path().stem().string());
    }
  }
  std::vector<Found> found;
  num_refused = 0;
  for (const std::string& id : ids) {
    absl::StatusOr<Found> file = ReadBeginning(id, key, shape_of);
    if (file.ok()) {
      found.push_back(*std::move(file));
    } else {
      ++num_refused;
      if (absl::IsDataLoss(file.status())) {
        unlink(PathOf(id, kWhole).c_str());
      }
    }
  }
  return found;
}

SessionFiles::Writer::Writer(const SessionFiles& files, std::string id)
    : files_(files),
      id_(std::move(id)),
      file_(open(files.PathOf(id_, kPart).c_str(),
                 O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                 S_IRUSR | S_IWUSR)) {}

SessionFiles::Writer::~Writer() {
  if (!is_committed_) {
    unlink(files_.PathOf(id_, kPart).c_str());
  }
}

absl::Status SessionFiles::Writer::Append(std::string_view bytes) {
  const std::string path = files_.PathOf(id_, kPart);
  if (file_.get() < 0) {
    return absl::InternalError(fmt::format("{}: cannot be made", path));
  }
  while (!bytes.empty()) {
    const ssize_t written = files_.options_.write(file_.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      return Failed(path);
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status SessionFiles::Writer::Commit() {
  const std::string path = files_.PathOf(id_, kPart);
  // Before the name: a power cut must not leave a name without its bytes.
  if (file_.get() < 0 || (files_.options_.syncs && fsync(file_.get()) != 0) ||
      rename(path.c_str(), files_.PathOf(id_, kWhole).c_str()) != 0) {
    return Failed(path);
  }
  is_committed_ = true;
  return files_.SyncFolder();
}

SessionFiles::Reader::Reader(const SessionFiles& files, const std::string& id)
    : file_(open(files.PathOf(id, kWhole).c_str(), O_RDONLY | O_CLOEXEC)),
      error_(file_.get() < 0 ? errno : 0) {}

absl::StatusOr<size_t> SessionFiles::Reader::Read(std::span<std::byte> to) {
  if (error_ != 0) {
    return NotRead(error_);
  }
  size_t num_read = 0;
  while (num_read < to.size()) {
    const ssize_t got = read(file_.get(), to.data() + num_read, to.size() - num_read);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return NotRead(errno);
    }
    if (got == 0) {
      break;
    }
    num_read += static_cast<size_t>(got);
  }
  return num_read;
}

absl::StatusOr<std::string> SessionFiles::Reader::Read(size_t count) {
  std::string bytes(count, '\0');
  ASSIGN_OR_RETURN(const size_t num_read, Read(std::as_writable_bytes(std::span(bytes))));
  bytes.resize(num_read);
  return bytes;
}

}  // namespace ringserve
