// The folder in which idle sessions lie: one file each, a snapshot (snapshot.h), under the
// session's id. A file appears whole or not at all: it is written under another name, brought to
// the disk and renamed. What is left of a process that died is removed when the folder is opened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

#include "engine/base/status.h"
#include "engine/snapshot.h"

namespace ringserve {

// An open file of the system's; closed with its life.
class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor = -1) : descriptor_(descriptor) {}

  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  FileDescriptor(FileDescriptor&& from) noexcept;
  FileDescriptor& operator=(FileDescriptor&& from) noexcept;
  ~FileDescriptor();

  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

// All calls block on the disk. Any thread, if no two calls name the same session. `directory` is
// this object's alone: another process that wants it is refused.
class SessionFiles {
 public:
  // Writes some of `bytes`, as write(2) does. Tests have others.
  using Write = std::function<ssize_t(int descriptor, const void* bytes, size_t count)>;

  struct Options {
    Write write = {};   // none: the system's
    bool syncs = true;  // false: what a power cut leaves is anything, for tests without one
  };

  // Makes the folder. FAILED_PRECONDITION if another process has it.
  static absl::StatusOr<std::unique_ptr<SessionFiles>> Open(const std::string& directory,
                                                            Options options);

  static absl::StatusOr<std::unique_ptr<SessionFiles>> Open(const std::string& directory) {
    return Open(directory, Options());
  }

  // A file on its way to the disk; unless it was committed nothing stays of it.
  class Writer {
   public:
    Writer(const SessionFiles& files, std::string id);
    ~Writer();
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;

    // RESOURCE_EXHAUSTED: the disk is full. Else INTERNAL.
    absl::Status Append(std::string_view bytes);
    absl::Status Commit();

   private:
    const SessionFiles& files_;
    const std::string id_;
    FileDescriptor file_;
    bool is_committed_ = false;
  };

  class Reader {
   public:
    Reader(const SessionFiles& files, const std::string& id);
    // Fills `to`, and says how much of it; less than all: the end. NOT_FOUND (there is no file),
    // UNAVAILABLE (the system does not give it now: no descriptor, no memory, the device).
    absl::StatusOr<size_t> Read(std::span<std::byte> to);
    // The same, as a string of at most `count` bytes.
    absl::StatusOr<std::string> Read(size_t count);

   private:
    FileDescriptor file_;
    const int error_;  // of opening it
  };

  // The sessions that are whole as far as their beginnings and sizes tell, without their token ids.
  // Others are counted: those that are damaged are removed, those of another model, backend, config
  // or version stay for whom they fit, and those that cannot be read now for a later start.
  struct Found {
    Snapshot snapshot;
    int64_t bytes = 0;  // of the file
  };

  std::vector<Found> Scan(const SnapshotKey& key,
                          const SnapshotReader::ShapeOf& shape_of,
                          int64_t& num_refused) const;
  // For good: a power cut does not bring it back.
  absl::Status Remove(const std::string& id) const;

 private:
  SessionFiles(std::string directory, FileDescriptor folder, Options options);
  std::string PathOf(const std::string& id, const char* suffix) const;
  absl::Status SyncFolder() const;
  absl::StatusOr<Found> ReadBeginning(const std::string& id,
                                      const SnapshotKey& key,
                                      const SnapshotReader::ShapeOf& shape_of) const;

  const std::string directory_;
  const FileDescriptor folder_;  // locked
  const Options options_;
};

}  // namespace ringserve
