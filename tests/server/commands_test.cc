// The command line of a completion, its request, and its events as a terminal or a program sees
// them.
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "server/event_printer.h"
#include "server/generate_options.h"
#include "server/model_source.h"
#include "server/status.h"
#include "tests/support/catch.h"
#include "tests/support/memory_file.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

absl::StatusOr<v1::GenerateRequest> Parse(const std::vector<std::string>& arguments) {
  GenerateOptions options;
  CLI::App app;
  AddPromptOptions(app, options);
  AddSamplingOptions(app, options);
  AddStoppingOptions(app, options);
  AddOutputOptions(app, options);
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  app.parse(reversed);
  return BuildRequest(options);
}

TEST_CASE("options become the fields they name, and what is not said is not sent") {
  const auto bare = Parse({"--prompt", "a b"});
  REQUIRE(bare.ok());
  CHECK(bare->text() == "a b");
  CHECK_FALSE(bare->has_tokenize());
  CHECK_FALSE(bare->sampling().has_temperature());
  CHECK_FALSE(bare->sampling().has_top_p());
  CHECK_FALSE(bare->stopping().has_max_tokens());
  CHECK_FALSE(bare->output().has_logprobs());
  CHECK_FALSE(bare->has_queue_timeout());
  CHECK_FALSE(bare->has_speculate());

  const auto full = Parse({"-p",
                           "x",
                           "-t",
                           "0",
                           "--top-k",
                           "5",
                           "--top-p",
                           "0.5",
                           "--min-p",
                           "0.25",
                           "--repetition-penalty",
                           "1.5",
                           "--presence-penalty",
                           "1",
                           "--frequency-penalty",
                           "-1",
                           "--logit-bias",
                           "7:-1.5",
                           "--logit-bias",
                           "8:-inf",
                           "--seed",
                           "18446744073709551615",
                           "-n",
                           "2147483648",
                           "--min-tokens",
                           "3",
                           "--ignore-eos",
                           "--stop",
                           "a",
                           "--stop",
                           "b",
                           "--stop-token",
                           "4",
                           "--logprobs",
                           "0",
                           "--echo",
                           "--include-special-tokens",
                           "--priority",
                           "-7",
                           "--queue-timeout",
                           "1.5",
                           "--no-speculation",
                           "--no-special-tokens",
                           "--plain-text"});
  REQUIRE(full.ok());
  const v1::SamplingOptions& sampling = full->sampling();
  CHECK(sampling.has_temperature());
  CHECK(sampling.temperature() == 0);
  CHECK(sampling.top_k() == 5);
  CHECK(sampling.top_p() == 0.5F);
  CHECK(sampling.min_p() == 0.25F);
  CHECK(sampling.repetition_penalty() == 1.5F);
  CHECK(sampling.presence_penalty() == 1);
  CHECK(sampling.frequency_penalty() == -1);
  REQUIRE(sampling.logit_bias_size() == 2);
  CHECK(sampling.logit_bias(0).token_id() == 7);
  CHECK(sampling.logit_bias(0).bias() == -1.5F);
  CHECK(sampling.logit_bias(1).bias() < -1e38F);
  CHECK(sampling.seed() == 18446744073709551615U);
  CHECK(full->stopping().max_tokens() == int64_t{1} << 31);  // the server's to refuse
  CHECK(full->stopping().min_tokens() == 3);
  CHECK(full->stopping().ignore_eos());
  CHECK(full->stopping().stop_strings_size() == 2);
  CHECK(full->stopping().stop_token_ids(0) == 4);
  CHECK(full->output().has_logprobs());
  CHECK(full->output().echo());
  CHECK(full->output().include_special_tokens());
  CHECK(full->priority() == -7);
  CHECK(full->has_speculate());
  CHECK_FALSE(full->speculate());
  CHECK(full->queue_timeout().seconds() == 1);
  CHECK(full->queue_timeout().nanos() == 500'000'000);
  CHECK_FALSE(full->tokenize().add_special_tokens());
  CHECK_FALSE(full->tokenize().parse_special_tokens());
}

TEST_CASE("what the command line cannot mean is named") {
  const TempDir dir;
  const std::string file = dir.path() + "/ids.json";
  const auto message = [](const std::vector<std::string>& arguments) {
    return std::string(Parse(arguments).status().message());
  };
  const auto ids = [&](const std::string& text) {
    std::ofstream(file) << text;
    return message({"--prompt-ids", file});
  };
  CHECK(ids("[1, 2, 3]").empty());
  CHECK(ids("{}") == file + ": not a JSON array of token ids");
  CHECK(ids("[1, 2.5]") == file + ": [1]: 2.5 is no token id");
  CHECK(ids("[4294967296]") == file + ": [0]: 4294967296 is no token id");
  CHECK(ids("[true]") == file + ": [0]: true is no token id");
  CHECK_FALSE(ids("[1, 2").empty());
  CHECK(message({"--prompt", "a", "--prompt-file", "b"}) ==
        "--prompt, --prompt-file, --prompt-ids and --chat exclude each other");
  CHECK_FALSE(message({"--prompt-file", dir.path() + "/none"}).empty());
  CHECK_FALSE(message({"--prompt-ids", file, "--plain-text"}).empty());
  for (const std::string bias : {"7", "7:", ":1", "x:1", "7:x", "7:1x", "7 :1"}) {
    CHECK(message({"-p", "a", "--logit-bias", bias}) ==
          "--logit-bias: \"" + bias + "\" is not ID:BIAS, as 42:-1.5 is");
  }
  for (const std::string seconds : {"0", "-1", "nan", "1e9"}) {
    CHECK(message({"-p", "a", "--queue-timeout=" + seconds}).find("is not in [0.001, 86400]") !=
          std::string::npos);
  }
  CHECK(LoadConfigs({}).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("a conversation is read from a file as it is written there") {
  const TempDir dir;
  const auto parse = [&dir](const std::string& json) {
    return Parse({"--chat", dir.Write("c.json", json)});
  };
  const auto bare = parse(R"([{"role": "user", "content": "Hi", "b": 1, "a": 2.5}])");
  REQUIRE(bare.ok());
  REQUIRE(bare->chat().messages_size() == 1);
  CHECK(bare->chat().messages(0).json() == R"({"role":"user","content":"Hi","b":1,"a":2.5})");
  CHECK_FALSE(bare->chat().has_add_generation_prompt());

  const auto full = parse(
      R"({"messages": [], "tools": [{"name": "f"}], "documents": [{"t": 1}], "variables": {"x": 1},)"
      R"( "add_generation_prompt": false, "continue_final_message": true,)"
      R"( "now": "2025-07-31T15:30:05Z"})");
  REQUIRE(full.ok());
  CHECK(full->chat().tools(0) == R"({"name":"f"})");
  CHECK(full->chat().documents(0) == R"({"t":1})");
  CHECK(full->chat().variables() == R"({"x":1})");
  CHECK(full->chat().has_add_generation_prompt());
  CHECK(full->chat().continue_final_message());
  CHECK(full->chat().now().seconds() == 1'753'975'805);

  const auto message = [&](const std::string& json) {
    const std::string text(parse(json).status().message());
    return text.substr(std::min(text.size(), (dir / "c.json: ").size()));
  };
  CHECK(message("7") == "neither an array of messages nor an object with \"messages\"");
  CHECK(message(R"({"tools": []})") == message("7"));
  CHECK(message(R"({"messages": 7})") == "messages: not an array");
  CHECK(message(R"({"messages": [], "tools": {}})") == "tools: not an array");
  CHECK(message(R"({"messages": [], "thinking": true})") == "thinking: unknown key");
  CHECK(message(R"({"messages": [], "add_generation_prompt": 1})") ==
        "add_generation_prompt: neither true nor false");
  CHECK(message(R"({"messages": [], "now": "today"})") ==
        "now: no date and time as 2025-07-31T15:30:05Z is");
  CHECK(message(R"({"messages": [], "messages": []})") == "messages: duplicate key");
}

TEST_CASE("events print as text or as JSON lines") {
  v1::GenerateEvent prompt;
  v1::ScoredToken& token = *prompt.mutable_prompt()->add_tokens();
  token.set_token_id(5);
  token.set_token_bytes("A\xc3");
  v1::GenerateEvent delta;
  delta.set_sequence(1);
  delta.mutable_delta()->set_text("b\"\n");
  delta.mutable_delta()->add_token_ids(7);
  v1::ScoredToken& scored = *delta.mutable_delta()->add_tokens();
  scored.set_token_id(7);
  scored.set_token_bytes("b");
  scored.set_logprob(-0.5F);
  v1::GenerateEvent end;
  end.set_sequence(2);
  end.mutable_finished()->set_reason(v1::FINISH_REASON_STOP_STRING);
  end.mutable_finished()->set_stop_index(0);
  end.mutable_finished()->set_replay_digest(0xab);
  const auto print = [&](EventPrinter::Style style) {
    MemoryFile out;
    EventPrinter printer(style, out.file());
    for (const v1::GenerateEvent* event : {&prompt, &delta, &end}) {
      CHECK(printer.Print(*event));
    }
    return out.Take();
  };
  CHECK(print(EventPrinter::Style::kText) ==
        "A\xc3"
        "b\"\n");
  const std::string json = print(EventPrinter::Style::kJson);
  CHECK(json.find("\"text\":\"A\xef\xbf\xbd\"}") != std::string::npos);  // no logprob for token 0
  CHECK(json.find("\"text\":\"b\\\"\\n\",\"first_index\":0,\"token_ids\":[7],") !=
        std::string::npos);
  CHECK(json.find("\"logprob\":-0.5") != std::string::npos);
  CHECK(json.find("\"reason\":\"stop_string\",\"stop_index\":0") != std::string::npos);
  CHECK(json.find("\"replay_digest\":\"00000000000000ab\"") != std::string::npos);
  CHECK(std::count(json.begin(), json.end(), '\n') == 3);

  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> full(std::fopen("/dev/full", "w"),
                                                             &std::fclose);
  REQUIRE(full != nullptr);
  CHECK_FALSE(EventPrinter(EventPrinter::Style::kText, full.get()).Print(delta));
}

TEST_CASE("status messages keep to a length that every client takes") {
  const std::string long_message = std::string(1023, 'x') + "\xc3\xa9 and so on";
  const grpc::Status status = ToGrpcStatus(absl::InvalidArgumentError(long_message));
  CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(status.error_message() == std::string(1023, 'x') + "...");
  CHECK(status.error_details().empty());
  CHECK_FALSE(ToGrpcStatus(absl::UnavailableError("x")).error_details().empty());
  CHECK(ToGrpcStatus(absl::OkStatus()).ok());
}

}  // namespace
}  // namespace ringserve
