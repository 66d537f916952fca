// The accept loop. gRPC 1.51's own never accepts again after one EMFILE (CVE-2023-4785) and takes
// connections without end; this one has a cap, recovers from exhausted descriptors, and knows which
// connections are open.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include "engine/base/status.h"
#include "server/address.h"
#include "server/connection.h"

namespace ringserve {

class Listener {
 public:
  struct Options {
    std::vector<std::string> addresses;  // as Listen takes them
    int64_t max_connections = 0;
  };

  // Takes over `fd`, a new connection. Called on the listener's thread.
  using Accept = std::function<void(int listener_fd, int fd)>;

  // Binds all addresses, or none. Nothing is accepted before Run.
  static absl::StatusOr<std::unique_ptr<Listener>> Create(const Options& options);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // Starts accepting, once.
  void Run(Accept accept);
  // Closes the listening sockets and joins the thread; what was accepted goes on. Idempotent.
  void Stop();

  const std::vector<ListeningSocket>& sockets() const { return sockets_; }

  int64_t max_connections() const { return max_connections_; }

  int64_t open_connections() const;

  int64_t refused_connections() const { return refused_.load(std::memory_order_relaxed); }

  // By grpc::ServerContext::peer(); null if unknown, as peers of unix sockets are.
  std::shared_ptr<Connection> Find(const std::string& peer) const;

 private:
  explicit Listener(int64_t max_connections);
  void Loop();
  void AcceptAll(int listener_fd);
  void Admit(int listener_fd, int fd, const std::string& peer);
  void RefuseForWantOfDescriptors(int listener_fd);
  void Forget(int fd);

  const int64_t max_connections_;
  std::vector<ListeningSocket> sockets_;
  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  int spare_fd_ = -1;  // given up to accept, and so refuse, what finds no descriptor left
  Accept accept_;
  std::atomic<int64_t> refused_ = 0;

  mutable absl::Mutex mutex_;
  // By descriptor of the Connection. Shared with the calls that write to it: a call may outlast the
  // hang-up.
  std::unordered_map<int, std::shared_ptr<Connection>> connections_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<std::string, std::shared_ptr<Connection>> by_peer_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace ringserve
