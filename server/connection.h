// One accepted connection, as the front end sees it beside gRPC, which owns the traffic.
#pragma once

#include <string>

namespace ringserve {

// Holds a duplicate of the descriptor that gRPC was given: the socket stays known after gRPC closed
// its own, so a number is never mistaken for another connection's. Any thread.
class Connection {
 public:
  Connection(int fd, std::string peer);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int fd() const { return fd_; }

  // While corked, what gRPC sends stays with the kernel, at a fraction of the cost of a packet
  // each; Uncork lets it go in one piece. No effect on unix sockets.
  void Cork() const;
  void Uncork() const;

  // As grpc::ServerContext::peer() names it.
  const std::string& peer() const { return peer_; }

 private:
  const int fd_;
  const std::string peer_;
};

}  // namespace ringserve
