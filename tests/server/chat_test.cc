// Conversations, line by line.
#include "server/chat.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "tests/support/test_server.h"

namespace ringserve {
namespace {

EngineConfig ConfigWithSessions() {
  EngineConfig config = SmallFairytaleConfig();
  config.sessions.max_sessions = 8;
  return config;
}

// What a conversation prints.
class Screen {
 public:
  Screen() : file_(open_memstream(&text_, &size_)) {}

  ~Screen() {
    std::fclose(file_);
    std::free(text_);
  }

  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  std::FILE* file() { return file_; }

  // Since the last call.
  std::string Take() {
    std::fflush(file_);
    std::string out(text_ + taken_, size_ - taken_);
    taken_ = size_;
    return out;
  }

 private:
  char* text_ = nullptr;
  size_t size_ = 0;
  size_t taken_ = 0;
  std::FILE* file_;
};

ChatOptions Greedy(int64_t max_tokens) {
  ChatOptions options;
  options.request.mutable_sampling()->set_temperature(0);
  options.request.mutable_stopping()->set_max_tokens(max_tokens);
  options.request.mutable_stopping()->set_ignore_eos(true);
  return options;
}

TEST_CASE("a turn that is taken back and said again is answered the same") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  Screen screen;
  Chat chat(server.channel(), Greedy(8), screen.file());
  REQUIRE(chat.Open().ok());
  REQUIRE(chat.TakeLine("Once upon a time").ok());
  CHECK_FALSE(screen.Take().empty());
  REQUIRE(chat.TakeLine("The king said").ok());
  const std::string answer = screen.Take();
  REQUIRE(chat.TakeLine("/rollback").ok());
  screen.Take();
  REQUIRE(chat.TakeLine("The king said").ok());
  CHECK(screen.Take() == answer);
  REQUIRE(chat.TakeLine("/info").ok());
  CHECK(screen.Take().find("3 turns") != std::string::npos);
  CHECK(chat.Close().ok());
}

TEST_CASE("commands of a conversation that cannot be are refused, and it goes on") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  Screen screen;
  Chat chat(server.channel(), Greedy(3), screen.file());
  REQUIRE(chat.Open().ok());
  CHECK(chat.TakeLine("").ok());
  CHECK(chat.TakeLine("/help").ok());
  CHECK(chat.TakeLine("/dance").code() == absl::StatusCode::kInvalidArgument);
  CHECK(chat.TakeLine("/rollback").code() == absl::StatusCode::kInvalidArgument);
  CHECK(chat.TakeLine("/rollback x").code() == absl::StatusCode::kInvalidArgument);
  CHECK(chat.TakeLine("/rollback 99").code() == absl::StatusCode::kInvalidArgument);
  CHECK(chat.TakeLine("/switch 2").code() == absl::StatusCode::kInvalidArgument);
  CHECK(chat.TakeLine("/export").code() == absl::StatusCode::kInvalidArgument);
  CHECK(chat.TakeLine("/import /no/such/file").code() == absl::StatusCode::kNotFound);
  CHECK(chat.TakeLine("//slash").ok());
  CHECK_FALSE(chat.is_over());
  CHECK(chat.TakeLine("/quit").ok());
  CHECK(chat.is_over());
  CHECK_FALSE(chat.Interrupt());
}

}  // namespace
}  // namespace ringserve
