// Where the server listens: "HOST:PORT", "[IPV6]:PORT" or "unix:PATH".
#pragma once

#include <string>
#include <vector>

#include "engine/base/status.h"

namespace ringserve {

struct ListeningSocket {
  int fd = -1;
  std::string address;    // what was asked for, with the port that was taken for port 0
  int port = 0;           // 0 for a unix socket
  std::string unix_path;  // to be removed when the socket closes
};

// Bound and listening, non-blocking, one socket per address that the host resolves to (port 0: the
// first). INVALID_ARGUMENT for what is no address; UNAVAILABLE naming the address and the system's
// reason. A unix socket that nobody listens on any more is replaced.
absl::StatusOr<std::vector<ListeningSocket>> Listen(const std::string& address);

// Closes; removes a unix socket's file.
void CloseListening(ListeningSocket& socket);

}  // namespace ringserve
