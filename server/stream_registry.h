// Requests by caller and request id: the streams of live ones, those of resumable ones that dropped
// or ended lately, and calls that only read.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>

#include "engine/base/status.h"

namespace ringserve {

class GenerateStream;

// A call that only reads (Score, Embed), under the id that it gave itself.
class NamedReading {
 public:
  virtual ~NamedReading() = default;
  // Cancels it; false if it has ended already. Any thread; must not call the registry.
  virtual bool Abort() = 0;
};

// Any thread.
class StreamRegistry {
 public:
  struct Options {
    // How long a resumable stream is kept without a reader, and after its end. Zero: none is kept.
    absl::Duration resume_timeout = absl::Seconds(30);
    int64_t max_kept = 256;  // resumable streams, attached ones included
  };

  explicit StreamRegistry(const Options& options);
  // Shutdown must have been called if there were streams.
  ~StreamRegistry();
  StreamRegistry(const StreamRegistry&) = delete;
  StreamRegistry& operator=(const StreamRegistry&) = delete;

  // Before the request is submitted. ALREADY_EXISTS (the caller has one of that id);
  // RESOURCE_EXHAUSTED (max_kept); FAILED_PRECONDITION (resumable, and none is kept); UNAVAILABLE
  // after Shutdown.
  absl::Status Add(const std::shared_ptr<GenerateStream>& stream);
  // Null if there is none.
  std::shared_ptr<GenerateStream> Find(const std::string& owner,
                                       const std::string& request_id) const;

  // Ends a request of the caller's; false if none of that id is live.
  bool Abort(const std::string& owner, const std::string& request_id);

  // ALREADY_EXISTS. `reading` must live until it is removed.
  absl::Status AddReading(const std::string& owner,
                          const std::string& request_id,
                          NamedReading& reading);
  // When this returns nobody will abort it.
  void RemoveReading(const std::string& owner, const std::string& request_id);

  // The engine has said its last word to the stream, or never took its request (`keep` false).
  // The stream's last act here.
  void Ended(const std::shared_ptr<GenerateStream>& stream, bool keep);
  // Calls stream->Expire(epoch) after resume_timeout.
  void Schedule(const std::shared_ptr<GenerateStream>& stream, uint64_t epoch);
  // Lets go of an ended stream.
  void Forget(const GenerateStream& stream);

  // Refuses new streams, cancels those without a reader, and waits for the end of all.
  void Shutdown();

  int64_t num_kept() const;

  const Options& options() const { return options_; }

 private:
  struct Expiry {
    absl::Time time;
    std::weak_ptr<GenerateStream> stream;
    uint64_t epoch = 0;
  };

  void Run();
  static absl::Status AlreadyExists(const std::string& request_id);
  void Erase(const GenerateStream& stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  bool HasExpiries() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !expiries_.empty();
  }

  bool IsQuiet() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return num_live_ == 0; }

  const Options options_;
  mutable absl::Mutex mutex_;  // taken after a stream's and before a reading's
  std::unordered_map<std::string, std::shared_ptr<GenerateStream>> streams_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<std::string, NamedReading*> readings_ ABSL_GUARDED_BY(mutex_);
  std::deque<Expiry> expiries_ ABSL_GUARDED_BY(mutex_);  // in order of time
  int64_t num_live_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t num_kept_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread janitor_;
};

}  // namespace ringserve
