// The program itself, as a shell runs it: what score, embed and chat print, and how they end.
#include <cmath>
#include <fcntl.h>
#include <fstream>
#include <iterator>
#include <spawn.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/support/temp_dir.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

const std::string kModel = std::string(RINGSERVE_SOURCE_DIR) + "/models/fairytale-5m";

struct Ended {
  int code = -1;
  std::string out;
  std::string error;
};

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Ended RunProgram(Words words, const std::string& input = "") {
  words.insert(words.begin(), RINGSERVE_PROGRAM);
  std::vector<char*> arguments;
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  arguments.push_back(nullptr);
  const TempDir dir;
  const std::string in = dir.Write("in", input);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, in.c_str(), O_RDONLY, 0);
  constexpr int kNew = O_WRONLY | O_CREAT;
  posix_spawn_file_actions_addopen(&files, 1, (dir / "out").c_str(), kNew, 0600);
  posix_spawn_file_actions_addopen(&files, 2, (dir / "error").c_str(), kNew, 0600);
  pid_t pid = 0;
  REQUIRE(posix_spawn(&pid, RINGSERVE_PROGRAM, &files, nullptr, arguments.data(), environ) == 0);
  posix_spawn_file_actions_destroy(&files);
  int status = 0;
  REQUIRE(waitpid(pid, &status, 0) == pid);
  REQUIRE(WIFEXITED(status));
  return {WEXITSTATUS(status), Contents(dir / "out"), Contents(dir / "error")};
}

Words Lines(const std::string& text) {
  Words lines;
  for (size_t first = 0; first < text.size();) {
    const size_t end = text.find('\n', first);
    lines.push_back(text.substr(first, end - first));
    first = end == std::string::npos ? end : end + 1;
  }
  return lines;
}

v1::ScoreResponse Score(TestServer& server, const std::string& prompt, const Words& texts) {
  v1::ScoreRequest request;
  request.set_text(prompt);
  for (const std::string& text : texts) {
    request.add_continuations()->set_text(text);
  }
  v1::ScoreResponse response;
  grpc::ClientContext context;
  REQUIRE(v1::Inference::NewStub(server.channel())->Score(&context, request, &response).ok());
  return response;
}

TEST_CASE("ringserve score prints what Score answers") {
  TestServer server;
  server.ServeReal();
  const Words texts = {" there was a king", " xyzzy", " time, there was a little girl"};
  const v1::ScoreResponse told = Score(server, "Once upon a time", texts);
  // Of a server, and of a model that it reads itself: the same bits.
  for (const Words& from : {Words{"--target", server.address()}, Words{"--model", kModel}}) {
    Words words = {"score", "--prompt", "Once upon a time"};
    words.insert(words.end(), from.begin(), from.end());
    for (const std::string& text : texts) {
      words.insert(words.end(), {"--continuation", text});
    }
    const Ended plain = RunProgram(words);
    CHECK(plain.code == 0);
    CHECK(plain.error.empty());
    words.insert(words.end(), {"--json", "--alternatives", "2"});
    const Ended json = RunProgram(words);
    CHECK(json.code == 0);
    const Words lines = Lines(plain.out);
    const Words objects = Lines(json.out);
    REQUIRE(lines.size() == texts.size());
    REQUIRE(objects.size() == texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      const v1::ScoredContinuation& continuation = told.continuations(static_cast<int>(i));
      CHECK(lines[i] == fmt::format("{:.4f}\t{}\t{}",
                                    continuation.logprob(),
                                    continuation.is_greedy() ? "greedy" : "-",
                                    texts[i]));
      const Json object = Json::parse(objects[i]);
      CHECK(object["text"] == texts[i]);
      CHECK(object["logprob"] == continuation.logprob());
      CHECK(object["replay_digest"] == fmt::format("{:016x}", continuation.replay_digest()));
      REQUIRE(object["tokens"].size() == static_cast<size_t>(continuation.tokens_size()));
      for (int token = 0; token < continuation.tokens_size(); ++token) {
        const Json& one = object["tokens"][static_cast<size_t>(token)];
        CHECK(one["token_id"] == continuation.tokens(token).token().token_id());
        CHECK(one["alternatives"].size() == 2);
      }
    }
  }
}

TEST_CASE("what ringserve score cannot do is told on standard error") {
  TestServer server;
  server.ServeReal();
  const auto score = [&](const Words& more) {
    Words words = {"score", "--target", server.address(), "--prompt", "A fox"};
    words.insert(words.end(), more.begin(), more.end());
    const Ended ended = RunProgram(words);
    CHECK(ended.out.empty());
    return std::pair(ended.code, ended.error);
  };
  CHECK(score({}) == std::pair(2,
                               std::string("ringserve: --continuation: none; at least one is "
                                           "needed\n")));
  CHECK(score({"--continuation", " ran", "--alternatives", "2"}) ==
        std::pair(2,
                  std::string("ringserve: --alternatives: text has no place for them; add "
                              "--json\n")));
  const auto empty = score({"--continuation", ""});
  CHECK(empty.first == 2);
  CHECK(empty.second.find("continuations[0]") != std::string::npos);
  const auto many = score({"--continuation", " ran", "--json", "--alternatives", "21"});
  CHECK(many.first == 2);
  CHECK(many.second.find("alternatives: 21") != std::string::npos);
  CHECK(score({"--continuation", " ran", "--model-name", "other"}).first == 1);
}

std::vector<double> Embedding(const std::string& line) {
  return Json::parse(line).get<std::vector<double>>();
}

TEST_CASE("ringserve embed prints what Embed answers") {
  TestServer server;
  server.ServeReal();
  const auto ask = [&](v1::Pooling pooling, bool normalize) {
    v1::EmbedRequest request;
    request.add_inputs()->set_text("A fox");
    request.add_inputs()->set_text("The king had a daughter");
    request.set_pooling(pooling);
    request.set_normalize(normalize);
    v1::EmbedResponse response;
    grpc::ClientContext context;
    REQUIRE(v1::Inference::NewStub(server.channel())->Embed(&context, request, &response).ok());
    return response;
  };
  const auto check = [&](const Words& more, const v1::EmbedResponse& told) {
    Words words = {"embed", "--input", "A fox", "--input", "The king had a daughter"};
    words.insert(words.end(), more.begin(), more.end());
    const Ended ended = RunProgram(words);
    CHECK(ended.code == 0);
    CHECK(ended.error.empty());
    const Words lines = Lines(ended.out);
    REQUIRE(lines.size() == 2);
    for (size_t i = 0; i < 2; ++i) {
      const auto& values = told.embeddings(static_cast<int>(i)).values();
      CHECK(Embedding(lines[i]) == std::vector<double>(values.begin(), values.end()));
    }
  };
  const std::string address = server.address();
  check({"--target", address}, ask(v1::POOLING_LAST_TOKEN, false));
  check({"--target", address, "--pooling", "mean"}, ask(v1::POOLING_MEAN, false));
  check({"--model", kModel, "--pooling", "mean", "--normalize"}, ask(v1::POOLING_MEAN, true));

  CHECK(RunProgram({"embed", "--target", address}).code == 2);
  CHECK(RunProgram({"embed", "--target", address, "--input", "a", "--pooling", "max"}).code == 2);
  const Ended empty = RunProgram({"embed", "--target", address, "--input", ""});
  CHECK(empty.code == 2);
  CHECK(empty.error.find("inputs[0]") != std::string::npos);
}

TEST_CASE("ringserve chat holds every answer to the constraint that it was given") {
  EngineConfig config = SmallFairytaleConfig();
  config.sessions.max_sessions = 2;
  TestServer server;
  server.ServeReal(config);
  const TempDir dir;
  const auto chat = [&](const Words& more, const std::string& input) {
    Words words = {"chat", "--target", server.address(), "--no-template"};
    words.insert(words.end(), more.begin(), more.end());
    return RunProgram(words, input);
  };
  // Two turns of one conversation.
  const Ended choice = chat({"--choice", " yes", "--choice", " no"}, "Was it a fox?\nAnd a cat?\n");
  INFO(choice.error);
  CHECK(choice.code == 0);
  const Words answers = Lines(choice.out);
  REQUIRE(answers.size() == 2);
  for (const std::string& answer : answers) {
    CHECK((answer == " yes" || answer == " no"));
  }
  const Ended regex = chat({"--regex", "[0-9]{3}(-[0-9]{2}){2}"}, "What day?\n");
  CHECK(regex.code == 0);
  REQUIRE(Lines(regex.out).size() == 1);
  CHECK(Lines(regex.out).front().size() == 9);
  CHECK(regex.out[3] == '-');
  const std::string schema =
      dir.Write("schema.json", R"({"type": "object", "properties": {"fox": {"type": "boolean"}},
                         "required": ["fox"], "additionalProperties": false})");
  const Ended json = chat({"--json-schema", schema}, "Was it a fox?\n");
  CHECK(json.code == 0);
  CHECK(Json::parse(json.out)["fox"].is_boolean());

  CHECK(chat({"--regex", "(a"}, "x\n").code == 2);
  const Ended none = chat({"--json-schema", dir / "none"}, "x\n");
  CHECK(none.code == 1);
  CHECK(none.error.find(dir / "none") != std::string::npos);
  const Ended two = chat({"--regex", "a", "--choice", "b"}, "x\n");
  CHECK(two.code == 2);
  CHECK_FALSE(two.error.empty());
}

}  // namespace
}  // namespace ringserve
