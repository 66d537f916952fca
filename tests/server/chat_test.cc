// Conversations, line by line.
#include "server/chat.h"

#include <memory>
#include <string>

#include "tests/support/memory_file.h"
#include "tests/support/model_folder.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

EngineConfig ConfigWithSessions() {
  EngineConfig config = SmallFairytaleConfig();
  config.sessions.max_sessions = 8;
  return config;
}

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
  MemoryFile screen;
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

TEST_CASE("a conversation goes on in a fork, from a file and elsewhere, with the same answer") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  TestServer other;
  other.ServeReal(ConfigWithSessions());
  TempDir folder;
  MemoryFile screen;
  Chat chat(server.channel(), Greedy(8), screen.file());
  REQUIRE(chat.Open().ok());
  REQUIRE(chat.TakeLine("Once upon a time").ok());
  const std::string export_line = "/export " + (folder / "session");
  REQUIRE(chat.TakeLine(export_line).ok());
  REQUIRE(chat.TakeLine("/fork").ok());
  screen.Take();
  REQUIRE(chat.TakeLine("The king said").ok());
  const std::string answer = screen.Take();
  CHECK_FALSE(answer.empty());
  const auto answers_the_same = [&](Chat& where) {
    screen.Take();
    REQUIRE(where.TakeLine("The king said").ok());
    CHECK(screen.Take() == answer);
  };
  REQUIRE(chat.TakeLine("/switch 1").ok());
  answers_the_same(chat);
  const std::string import_line = "/import " + (folder / "session");
  REQUIRE(chat.TakeLine(import_line).ok());
  answers_the_same(chat);
  Chat elsewhere(other.channel(), Greedy(8), screen.file());
  REQUIRE(elsewhere.Open().ok());
  REQUIRE(elsewhere.TakeLine(import_line).ok());
  answers_the_same(elsewhere);
  CHECK(chat.Close().ok());
  CHECK(elsewhere.Close().ok());
}

TEST_CASE("commands of a conversation that cannot be are refused, and it goes on") {
  TestServer server;
  server.ServeReal(ConfigWithSessions());
  MemoryFile screen;
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

// What a conversation by template must be answered: the whole of it in one request.
class Conversation {
 public:
  explicit Conversation(TestServer& server) : server_(server) {}

  std::string Say(const std::string& line) {
    v1::GenerateRequest request = Greedy(8).request;
    chat_.add_messages()->set_role("user");
    chat_.mutable_messages(chat_.messages_size() - 1)->set_content(line);
    *request.mutable_chat() = chat_;
    const Stream stream = Generate(server_.channel(), request);
    REQUIRE(stream.status.ok());
    chat_.add_messages()->set_role("assistant");
    chat_.mutable_messages(chat_.messages_size() - 1)->set_content(stream.text());
    return stream.text();
  }

  void TakeBack() {
    chat_.mutable_messages()->RemoveLast();
    chat_.mutable_messages()->RemoveLast();
  }

 private:
  TestServer& server_;
  v1::ChatPrompt chat_;
};

// What the screen shows of an answer.
std::string Shown(const std::string& text) {
  return text.empty() || text.back() == '\n' ? text : text + "\n";
}

constexpr char kFaithful[] =
    "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}";
// Forgets what was answered once there is a new question.
constexpr char kForgetful[] =
    "{% for m in messages %}{{ m.role }}:"
    "{{ m.content if m.role == 'user' else m.content[:3] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}";

TEST_CASE("by template the answers are those to the whole conversation, on one session") {
  for (const char* chat_template : {kFaithful, kForgetful}) {
    INFO(chat_template);
    const ModelFolder folder;
    folder.Write("chat_template.jinja", chat_template);
    EngineConfig config = folder.config();
    config.sessions.max_sessions = 8;
    TestServer server;
    server.ServeReal(config);
    MemoryFile screen;
    Chat chat(server.channel(), Greedy(8), screen.file());
    REQUIRE(chat.Open().ok());
    Conversation expected(server);
    for (const std::string line : {"Once upon a time", "and then?", "//why?", "The end"}) {
      REQUIRE(chat.TakeLine(line).ok());
      const std::string said = line[0] == '/' ? line.substr(1) : line;
      CHECK(screen.Take() == Shown(expected.Say(said)));
    }
    // Taken back one by one, also past turns whose answers were forgotten.
    for (int i = 0; i < 2; ++i) {
      REQUIRE(chat.TakeLine("/rollback").ok());
      expected.TakeBack();
    }
    screen.Take();
    REQUIRE(chat.TakeLine("Who came?").ok());
    CHECK(screen.Take() == Shown(expected.Say("Who came?")));
    REQUIRE(chat.TakeLine("/info").ok());
    const std::string info = screen.Take();
    CHECK(info.find(" 0 taken from memory") == std::string::npos);
    CHECK(info.find("5 turns") != std::string::npos);
    CHECK(chat.TakeLine("/rollback 3").code() == absl::StatusCode::kInvalidArgument);
    CHECK(chat.TakeLine("/import x").code() == absl::StatusCode::kInvalidArgument);
    CHECK(chat.Close().ok());
  }
}

TEST_CASE("by template a conversation goes on where the window has left its beginning") {
  const ModelFolder folder;
  folder.Write("chat_template.jinja", kForgetful);
  EngineConfig config = folder.config();
  config.sessions.max_sessions = 2;
  config.rings.buffer_size = 64;
  config.rings.overflow = OverflowPolicy::kSlide;
  TestServer server;
  server.ServeReal(config);
  MemoryFile screen;
  ChatOptions options = Greedy(90);
  Chat chat(server.channel(), options, screen.file());
  REQUIRE(chat.Open().ok());
  REQUIRE(chat.TakeLine("Once upon a time").ok());
  REQUIRE(chat.TakeLine("and then?").ok());  // the answer before is cut, its beginning is gone
  CHECK(chat.TakeLine("/rollback").ok());
  CHECK(chat.TakeLine("and?").ok());
  CHECK(chat.Close().ok());
}

TEST_CASE("a template is told what the conversation is told, or there is none") {
  const ModelFolder folder;
  folder.Write("chat_template.jinja",
               "{% if mood != 'glad' or messages[0].content != 'Be brief.' %}"
               "{{ raise_exception('not told') }}{% endif %}tale");
  EngineConfig config = folder.config();
  config.sessions.max_sessions = 2;
  TestServer server;
  server.ServeReal(config);
  MemoryFile screen;
  ChatOptions options = Greedy(3);
  options.system = "Be brief.";
  Chat untold(server.channel(), options, screen.file());
  REQUIRE(untold.Open().ok());
  CHECK(untold.TakeLine("Hi").message() == "chat: the template: line 1: not told");
  CHECK(untold.TakeLine("/rollback").code() == absl::StatusCode::kInvalidArgument);
  CHECK(untold.Close().ok());
  options.variables = R"({"mood": "glad"})";
  Chat told(server.channel(), options, screen.file());
  REQUIRE(told.Open().ok());
  CHECK(told.TakeLine("Hi").ok());
  CHECK(told.Close().ok());
  options.use_template = false;
  CHECK(Chat(server.channel(), options, screen.file()).Open().code() ==
        absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace ringserve
