#include "server/address.h"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string_view>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <system_error>
#include <unistd.h>

#include <fmt/format.h>

namespace ringserve {
namespace {

constexpr int kBacklog = 1024;
constexpr std::string_view kUnixPrefix = "unix:";

absl::Status SystemError(const std::string& address, std::string_view what, int error) {
  return absl::UnavailableError(
      fmt::format("{}: {}: {}", address, what, std::generic_category().message(error)));
}

absl::StatusOr<ListeningSocket> ListenOn(const std::string& address,
                                         const sockaddr* addr,
                                         socklen_t addr_len) {
  ListeningSocket out;
  out.address = address;
  out.fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (out.fd < 0) {
    return SystemError(address, "socket", errno);
  }
  const int on = 1;
  if (addr->sa_family == AF_INET6) {
    setsockopt(out.fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
  }
  if (addr->sa_family != AF_UNIX) {
    setsockopt(out.fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  }
  if (bind(out.fd, addr, addr_len) != 0 || listen(out.fd, kBacklog) != 0) {
    const int error = errno;
    close(out.fd);
    return SystemError(address, "cannot listen", error);
  }
  return out;
}

absl::StatusOr<ListeningSocket> ListenUnix(const std::string& address) {
  const std::string path = address.substr(kUnixPrefix.size());
  sockaddr_un addr{};
  addr.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(addr.sun_path)) {
    return absl::InvalidArgumentError(fmt::format("{}: a path of {} bytes is not in [1, {}]",
                                                  address,
                                                  path.size(),
                                                  sizeof(addr.sun_path) - 1));
  }
  std::memcpy(addr.sun_path, path.data(), path.size());
  const auto* generic = reinterpret_cast<const sockaddr*>(&addr);

  // A socket file that refuses connections was left behind; anything else is not ours to remove.
  struct stat info {};

  if (stat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) {
    const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe >= 0) {
      if (connect(probe, generic, sizeof(addr)) != 0 && errno == ECONNREFUSED) {
        unlink(path.c_str());
      }
      close(probe);
    }
  }
  auto socket = ListenOn(address, generic, sizeof(addr));
  if (socket.ok()) {
    socket->unix_path = path;
  }
  return socket;
}

int PortOf(int fd) {
  sockaddr_storage addr{};
  socklen_t len = sizeof(addr);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&addr), &len) != 0) {
    return 0;
  }
  return addr.ss_family == AF_INET6 ? ntohs(reinterpret_cast<sockaddr_in6*>(&addr)->sin6_port)
                                    : ntohs(reinterpret_cast<sockaddr_in*>(&addr)->sin_port);
}

absl::StatusOr<std::vector<ListeningSocket>> ListenInet(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = colon == std::string::npos ? "" : address.substr(0, colon);
  const std::string port = colon == std::string::npos ? "" : address.substr(colon + 1);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) {
    host = host.substr(1, host.size() - 2);
  }
  int number = -1;
  const auto parsed = std::from_chars(port.data(), port.data() + port.size(), number);
  if (host.empty() || (!bracketed && host.find(':') != std::string::npos) ||
      parsed.ec != std::errc() || parsed.ptr != port.data() + port.size() || number < 0 ||
      number > 65535) {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" is no address: HOST:PORT, [IPV6]:PORT or unix:PATH", address));
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (error != 0 && host == "localhost") {
    // Loopback even where no /etc/hosts says so (RFC 6761, section 6.3), as in a bare container.
    hints.ai_family = AF_INET;
    hints.ai_flags = AI_NUMERICSERV;
    error = getaddrinfo(nullptr, port.c_str(), &hints, &found);
  }
  if (error != 0) {
    return absl::UnavailableError(fmt::format("{}: {}", address, gai_strerror(error)));
  }
  std::vector<ListeningSocket> out;
  absl::Status status;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    auto socket = ListenOn(address, info->ai_addr, info->ai_addrlen);
    if (!socket.ok()) {
      status = socket.status();
      continue;
    }
    socket->port = PortOf(socket->fd);
    socket->address = fmt::format("{}:{}", bracketed ? "[" + host + "]" : host, socket->port);
    out.push_back(*std::move(socket));
    if (number == 0) {
      break;
    }
  }
  freeaddrinfo(found);
  if (out.empty()) {
    return status;
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<ListeningSocket>> Listen(const std::string& address) {
  if (address.compare(0, kUnixPrefix.size(), kUnixPrefix) == 0) {
    ASSIGN_OR_RETURN(ListeningSocket socket, ListenUnix(address));
    return std::vector<ListeningSocket>{std::move(socket)};
  }
  return ListenInet(address);
}

void CloseListening(ListeningSocket& socket) {
  close(socket.fd);
  socket.fd = -1;
  if (!socket.unix_path.empty()) {
    unlink(socket.unix_path.c_str());
  }
}

}  // namespace ringserve
