// Control.WatchLoad: who is told the load again and again.
#pragma once

#include <functional>
#include <unordered_set>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "engine/base/status.h"
#include "ringserve/v1/control.pb.h"

namespace ringserve {

class LoadWatch;

// Outlives the server. Any thread.
class LoadWatchers {
 public:
  static constexpr size_t kMaxWatchers = 256;

  using TellLoad = std::function<absl::StatusOr<v1::GetLoadResponse>()>;

  LoadWatchers() = default;
  ~LoadWatchers() = default;
  LoadWatchers(const LoadWatchers&) = delete;
  LoadWatchers& operator=(const LoadWatchers&) = delete;

  // A call that writes what `tell` says, now and after each interval; or one that ends with the
  // interval's status, or RESOURCE_EXHAUSTED, or UNAVAILABLE after EndAll.
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(const absl::StatusOr<absl::Duration>& interval,
                                                    TellLoad tell);
  // All end UNAVAILABLE.
  void EndAll();

 private:
  friend class LoadWatch;
  absl::Status Add(LoadWatch& watch);
  void Remove(LoadWatch& watch);

  absl::Mutex mutex_;  // taken before a watch's
  std::unordered_set<LoadWatch*> watches_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ringserve
