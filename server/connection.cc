#include "server/connection.h"

#include <unistd.h>
#include <utility>

namespace ringserve {

Connection::Connection(int fd, std::string peer) : fd_(fd), peer_(std::move(peer)) {}

Connection::~Connection() {
  close(fd_);
}

}  // namespace ringserve
