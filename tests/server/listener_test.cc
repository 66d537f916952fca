// The accept loop: addresses, the cap, exhausted descriptors, and peers that behave badly.
#include "server/listener.h"

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <netinet/in.h>
#include <string>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

#include "server/address.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

// A descriptor that closes itself.
class Socket {
 public:
  Socket() : fd_(socket(AF_INET, SOCK_STREAM, 0)) { REQUIRE(fd_ >= 0); }

  ~Socket() { close(fd_); }

  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  void Connect(int port) const {
    sockaddr_in addr{};
    addr.sin_family = AF_INET;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.sin_port = htons(static_cast<uint16_t>(port));
    REQUIRE(connect(fd_, reinterpret_cast<sockaddr*>(&addr), sizeof(addr)) == 0);
  }

  void Send(const std::string& bytes) const {
    REQUIRE(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
  }

  void HalfClose() const { shutdown(fd_, SHUT_WR); }

  // Whether the server ends the connection; waits for it to do so or to say something.
  bool IsRefused() const {
    char byte = 0;
    return recv(fd_, &byte, 1, 0) <= 0;
  }

  // Until the server ends the connection.
  void AwaitEnd() const {
    char bytes[4096];
    while (recv(fd_, bytes, sizeof(bytes), 0) > 0) {
    }
  }

 private:
  const int fd_;
};

const std::string kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const std::string kEmptySettings("\x00\x00\x00\x04\x00\x00\x00\x00\x00", 9);

void CheckServes(TestServer& server) {
  CHECK(Generate(server.NewChannel(), TextRequest("Once", 1)).status.ok());
}

TEST_CASE("connections over the cap are refused, and the next free place is given away") {
  ServerOptions options = TestServer::DefaultOptions();
  options.max_connections = 3;
  TestServer server(options);
  server.ServeReal();
  std::vector<Socket> sockets(5);
  for (const Socket& socket : sockets) {
    socket.Connect(server.port());
    socket.Send(kPreface + kEmptySettings);
  }
  // In order of arrival, so the first three are in: the server greets them with its settings.
  int num_refused = 0;
  for (const Socket& socket : sockets) {
    num_refused += static_cast<int>(socket.IsRefused());
  }
  CHECK(num_refused == 2);
  sockets.clear();
  // The loop learns of each end by itself; a client that was turned away tries again.
  Stream stream;
  do {
    stream = Generate(server.NewChannel(), TextRequest("Once", 1));
  } while (stream.status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(stream.status.ok());
}

TEST_CASE("the server outlives exhausted descriptors") {
  TestServer server;
  server.ServeReal();
  CheckServes(server);
  // The clients' sockets are there before the limit falls, so that only accepting fails.
  std::vector<Socket> sockets(64);
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  int highest = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    highest = std::max(highest, std::stoi(entry.path().filename()));
  }
  std::vector<int> fillers;  // of the numbers below that are free
  do {
    fillers.push_back(dup(STDERR_FILENO));
  } while (fillers.back() < highest);
  rlimit low = before;
  low.rlim_cur = static_cast<rlim_t>(fillers.back()) + 8;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &low) == 0);
  int num_refused = 0;
  for (const Socket& socket : sockets) {
    socket.Connect(server.port());
    socket.Send(kPreface + kEmptySettings);
    num_refused += static_cast<int>(socket.IsRefused());
  }
  REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
  for (const int fd : fillers) {
    close(fd);
  }
  CHECK(num_refused > 50);
  CHECK(num_refused < 64);
  CheckServes(server);  // with the others still there
  sockets.clear();
  CheckServes(server);
}

TEST_CASE("peers that talk nonsense or leave halfway cost nobody anything") {
  TestServer server;
  server.ServeReal();
  const std::string settings = kPreface + kEmptySettings;
  // A HEADERS frame for stream 1 whose end never comes.
  const std::string half_headers("\x00\x00\x20\x01\x04\x00\x00\x00\x01\x82\x86", 11);
  const std::string oversized_frame("\xff\xff\xff\x00\x00\x00\x00\x00\x01", 9);
  const std::vector<std::string> openings = {
      "",
      "G",
      "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
      std::string(70'000, '\0'),
      kPreface.substr(0, 10),
      kPreface,
      settings,
      settings + half_headers,
      settings + oversized_frame,
      settings + std::string("\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00", 13),
      std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11),  // a TLS hello
  };
  for (const std::string& opening : openings) {
    CAPTURE(opening.substr(0, 40));
    {
      Socket abandoned;
      abandoned.Connect(server.port());
      abandoned.Send(opening);
    }
    Socket half_closed;
    half_closed.Connect(server.port());
    half_closed.Send(opening);
    half_closed.HalfClose();
    half_closed.AwaitEnd();
    CheckServes(server);
  }
}

TEST_CASE("abandoned streams are cancelled with their connection") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  constexpr size_t kStreams = 5;
  {
    const auto channel = server.NewChannel();
    const auto stub = v1::Inference::NewStub(channel);
    std::vector<grpc::ClientContext> contexts(kStreams);
    std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>>> readers;
    for (grpc::ClientContext& context : contexts) {
      readers.push_back(stub->Generate(&context, TextRequest("a", 10)));
    }
    for (size_t i = 0; i < kStreams; ++i) {
      engine.AwaitRequest(i);
    }
  }
  for (size_t i = 0; i < kStreams; ++i) {
    const uint64_t id = engine.AwaitRequest(i);
    engine.AwaitCancel(id);
    engine.SayFailed(id, absl::CancelledError("gone"));
  }
}

TEST_CASE("the server listens where it is told to") {
  const std::string path =
      (std::filesystem::temp_directory_path() / fmt::format("ringserve-{}.sock", getpid()))
          .string();
  ServerOptions options;
  options.listen = {"localhost:0", "unix:" + path};
  {
    TestServer server(options);
    server.ServeReal();
    for (const ListeningSocket& socket : server.server().sockets()) {
      INFO(socket.address);
      // By number: where no /etc/hosts is, the server knows "localhost" and gRPC's clients do not.
      const std::string target =
          socket.port == 0 ? socket.address : fmt::format("127.0.0.1:{}", socket.port);
      const auto channel = grpc::CreateChannel(target, grpc::InsecureChannelCredentials());
      CHECK(Generate(channel, TextRequest("Once", 1)).status.ok());
    }
    // Taken by one that lives.
    CHECK(Listen("unix:" + path).status().code() == absl::StatusCode::kUnavailable);
    CHECK(Listen(fmt::format("127.0.0.1:{}", server.server().sockets()[0].port)).status().code() ==
          absl::StatusCode::kUnavailable);
  }
  CHECK_FALSE(std::filesystem::exists(path));
  // Left behind by one that died.
  {
    auto first = Listen("unix:" + path);
    REQUIRE(first.ok());
    close(first->front().fd);
    auto second = Listen("unix:" + path);
    REQUIRE(second.ok());
    CloseListening(second->front());
  }
  // A file that is no socket is not ours to replace.
  REQUIRE(std::ofstream(path).is_open());
  CHECK_FALSE(Listen("unix:" + path).ok());
  CHECK(std::filesystem::remove(path));
}

TEST_CASE("what is no address is named") {
  for (const std::string address : {"",
                                    "localhost",
                                    "localhost:",
                                    ":50051",
                                    "localhost:http",
                                    "localhost:65536",
                                    "localhost:-1",
                                    "localhost:1x",
                                    "::1:50051",
                                    "unix:"}) {
    INFO(address);
    const absl::Status status = Listen(address).status();
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(std::string(status.message()).find(address) != std::string::npos);
  }
  CHECK(Listen("unix:" + std::string(200, 'x')).status().code() ==
        absl::StatusCode::kInvalidArgument);
  CHECK(Listen("no-such-host.invalid:1").status().code() == absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace ringserve
