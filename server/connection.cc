#include "server/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace ringserve {

Connection::Connection(int fd, std::string peer) : fd_(fd), peer_(std::move(peer)) {}

Connection::~Connection() {
  close(fd_);
}

void Connection::Cork() const {
  const int on = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
}

void Connection::Uncork() const {
  const int off = 0;
  setsockopt(fd_, IPPROTO_TCP, TCP_CORK, &off, sizeof(off));
}

}  // namespace ringserve
