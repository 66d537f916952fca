#include "server/listener.h"

#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "engine/base/check.h"

namespace ringserve {
namespace {

int OpenSpare() {
  return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

bool IsOutOfDescriptors(int error) {
  return error == EMFILE || error == ENFILE;
}

// As gRPC spells it in peer(); "" for a unix socket, whose peers have no name.
std::string PeerName(const sockaddr_storage& addr) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (addr.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(addr);
    inet_ntop(AF_INET, &in.sin_addr, text.data(), text.size());
    return fmt::format("ipv4:{}:{}", text.data(), ntohs(in.sin_port));
  }
  if (addr.ss_family == AF_INET6) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(addr);
    inet_ntop(AF_INET6, &in.sin6_addr, text.data(), text.size());
    return fmt::format("ipv6:%5B{}%5D:{}", text.data(), ntohs(in.sin6_port));
  }
  return "";
}

void Watch(int epoll_fd, int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  RS_CHECK(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0);
}

}  // namespace

Listener::Listener(int64_t max_connections) : max_connections_(max_connections) {}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Create(const Options& options) {
  std::unique_ptr<Listener> listener(new Listener(options.max_connections));
  for (const std::string& address : options.addresses) {
    ASSIGN_OR_RETURN(std::vector<ListeningSocket> sockets, Listen(address));
    for (ListeningSocket& socket : sockets) {
      listener->sockets_.push_back(std::move(socket));
    }
  }
  listener->epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  listener->wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  listener->spare_fd_ = OpenSpare();
  if (listener->epoll_fd_ < 0 || listener->wake_fd_ < 0 || listener->spare_fd_ < 0) {
    return absl::UnavailableError(
        fmt::format("accept loop: {}", std::generic_category().message(errno)));
  }
  return listener;
}

Listener::~Listener() {
  Stop();
  for (const int fd : {epoll_fd_, wake_fd_, spare_fd_}) {
    if (fd >= 0) {
      close(fd);
    }
  }
}

void Listener::Run(Accept accept) {
  RS_CHECK(!thread_.joinable());
  accept_ = std::move(accept);
  Watch(epoll_fd_, wake_fd_, EPOLLIN);
  for (const ListeningSocket& socket : sockets_) {
    Watch(epoll_fd_, socket.fd, EPOLLIN);
  }
  thread_ = std::thread([this] { Loop(); });
}

void Listener::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    RS_CHECK(write(wake_fd_, &one, sizeof(one)) == sizeof(one));
    thread_.join();
  }
  for (ListeningSocket& socket : sockets_) {
    if (socket.fd >= 0) {
      CloseListening(socket);
    }
  }
}

int64_t Listener::open_connections() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(connections_.size());
}

std::shared_ptr<Connection> Listener::Find(const std::string& peer) const {
  absl::MutexLock lock(&mutex_);
  const auto it = by_peer_.find(peer);
  return it == by_peer_.end() ? nullptr : it->second;
}

void Listener::Loop() {
  std::array<epoll_event, 64> events{};
  for (;;) {
    const int num_events =
        epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()), -1);
    if (num_events < 0) {
      RS_CHECK(errno == EINTR);
      continue;
    }
    for (int i = 0; i < num_events; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == wake_fd_) {
        return;
      }
      bool is_listener = false;
      for (const ListeningSocket& socket : sockets_) {
        is_listener = is_listener || socket.fd == fd;
      }
      if (is_listener) {
        AcceptAll(fd);
      } else {
        Forget(fd);
      }
    }
  }
}

void Listener::AcceptAll(int listener_fd) {
  for (;;) {
    sockaddr_storage addr{};
    socklen_t addr_len = sizeof(addr);
    const int fd = accept4(
        listener_fd, reinterpret_cast<sockaddr*>(&addr), &addr_len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      Admit(listener_fd, fd, PeerName(addr));
    } else if (IsOutOfDescriptors(errno)) {
      RefuseForWantOfDescriptors(listener_fd);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return;
    } else if (errno == ENOBUFS || errno == ENOMEM) {
      spdlog::warn("accept error={}", std::generic_category().message(errno));
      return;  // the listener stays readable: the loop comes back
    }
    // Else the connection died in the queue: on to the next.
  }
}

void Listener::RefuseForWantOfDescriptors(int listener_fd) {
  close(spare_fd_);
  const int fd = accept4(listener_fd, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd >= 0) {
    close(fd);
    refused_.fetch_add(1, std::memory_order_relaxed);
  }
  spare_fd_ = OpenSpare();
}

void Listener::Admit(int listener_fd, int fd, const std::string& peer) {
  const bool full = open_connections() >= max_connections_;
  const int watched_fd = full ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (watched_fd < 0) {
    close(fd);
    refused_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));  // no effect on unix sockets
  auto connection = std::make_shared<Connection>(watched_fd, peer);
  {
    absl::MutexLock lock(&mutex_);
    connections_.emplace(watched_fd, connection);
    if (!peer.empty()) {
      by_peer_[peer] = connection;
    }
  }
  // Either side's end of the connection, and nothing else.
  Watch(epoll_fd_, watched_fd, EPOLLRDHUP);
  accept_(listener_fd, fd);
}

void Listener::Forget(int fd) {
  epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
  absl::MutexLock lock(&mutex_);
  const auto it = connections_.find(fd);
  if (it == connections_.end()) {
    return;
  }
  const auto by_peer = by_peer_.find(it->second->peer());
  if (by_peer != by_peer_.end() && by_peer->second == it->second) {
    by_peer_.erase(by_peer);
  }
  connections_.erase(it);
}

}  // namespace ringserve
