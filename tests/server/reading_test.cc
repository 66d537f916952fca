// Score and Embed on the wire: what Generate says of the same tokens, what is refused and how, and
// how calls end.
#include <cmath>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/client_context.h>

#include "ringserve/v1/control.grpc.pb.h"
#include "server/status.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

constexpr const char* kPrompt = "Once upon a time there was";

EngineConfig WideConfig() {
  EngineConfig config = SmallFairytaleConfig();
  config.scheduler.max_batch = 3;
  config.scheduler.max_queue = 130;
  return config;
}

v1::ScoreRequest ScoreTexts(const std::string& prompt, const std::vector<std::string>& texts) {
  v1::ScoreRequest request;
  request.set_text(prompt);
  for (const std::string& text : texts) {
    request.add_continuations()->set_text(text);
  }
  return request;
}

struct Scored {
  grpc::Status status;
  v1::ScoreResponse response;
};

Scored Score(TestServer& server, const v1::ScoreRequest& request) {
  Scored out;
  grpc::ClientContext context;
  out.status = v1::Inference::NewStub(server.channel())->Score(&context, request, &out.response);
  return out;
}

struct Embedded {
  grpc::Status status;
  v1::EmbedResponse response;
};

Embedded Embed(TestServer& server, const v1::EmbedRequest& request) {
  Embedded out;
  grpc::ClientContext context;
  out.status = v1::Inference::NewStub(server.channel())->Embed(&context, request, &out.response);
  return out;
}

// The prompt's tokens of a stream that was asked to echo.
std::vector<v1::ScoredToken> Echo(TestServer& server, const std::string& text) {
  v1::GenerateRequest request = TextRequest(text, 1);
  request.mutable_output()->set_echo(true);
  request.mutable_output()->set_logprobs(2);
  const Stream stream = Generate(server.channel(), request);
  REQUIRE(stream.status.ok());
  std::vector<v1::ScoredToken> tokens;
  for (const v1::GenerateEvent& event : stream.events) {
    tokens.insert(tokens.end(), event.prompt().tokens().begin(), event.prompt().tokens().end());
  }
  return tokens;
}

TEST_CASE("scores of texts are what Generate echoes of prompt and continuation") {
  TestServer server;
  server.ServeReal(WideConfig());
  const std::vector<std::string> texts = {
      " a king", " an old woman who lived", " a", " a king", ", said the fox"};
  v1::ScoreRequest request = ScoreTexts(kPrompt, texts);
  request.set_alternatives(2);
  const Scored got = Score(server, request);
  INFO(got.status.error_message());
  REQUIRE(got.status.ok());
  CHECK(got.response.model() == "fairytale-5m");
  REQUIRE(got.response.continuations_size() == 5);
  const int64_t prompt_tokens = static_cast<int64_t>(Echo(server, kPrompt).size());
  int64_t completion_tokens = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    CAPTURE(texts[i]);
    const v1::ScoredContinuation& scored = got.response.continuations(static_cast<int>(i));
    const std::vector<v1::ScoredToken> echo = Echo(server, kPrompt + texts[i]);
    REQUIRE(static_cast<int64_t>(echo.size()) == prompt_tokens + scored.tokens_size());
    double sum = 0;
    bool is_greedy = true;
    for (int j = 0; j < scored.tokens_size(); ++j) {
      const v1::ScoredToken& said = echo[static_cast<size_t>(prompt_tokens + j)];
      CHECK(scored.tokens(j).token().SerializeAsString() == said.SerializeAsString());
      const bool best = said.alternatives(0).token_id() == said.token_id();
      CHECK(scored.tokens(j).is_greedy() == best);
      is_greedy = is_greedy && best;
      sum += static_cast<double>(said.logprob());
    }
    CHECK(scored.logprob() == sum);
    CHECK(scored.is_greedy() == is_greedy);
    completion_tokens += scored.tokens_size();
  }
  const v1::Usage& usage = got.response.usage();
  CHECK(usage.prompt_tokens() == 5 * prompt_tokens);
  CHECK(usage.cached_tokens() == 4 * (prompt_tokens - 1));
  CHECK(usage.completion_tokens() == completion_tokens);
}

TEST_CASE("what Generate made greedily is greedy, with its digest") {
  TestServer server;
  server.ServeReal(WideConfig());
  v1::GenerateRequest request = TextRequest(kPrompt, 20);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_ignore_eos(true);
  const Stream made = Generate(server.channel(), request);
  REQUIRE(made.status.ok());
  v1::ScoreRequest score;
  score.set_text(kPrompt);
  const std::vector<int32_t> ids = made.token_ids();
  score.add_continuations()->mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
  const Scored got = Score(server, score);
  REQUIRE(got.status.ok());
  CHECK(got.response.continuations(0).is_greedy());
  CHECK(got.response.continuations(0).replay_digest() == made.finished().replay_digest());
  for (const auto& token : got.response.continuations(0).tokens()) {
    CHECK(token.token().alternatives().empty());
  }
}

TEST_CASE("as many continuations as a request may have share one prompt") {
  TestServer server;
  server.ServeReal(WideConfig());
  v1::ScoreRequest request;
  request.set_text(kPrompt);
  for (int i = 0; i < 128; ++i) {
    request.add_continuations()->mutable_token_ids()->add_ids(i + 3);
  }
  const Scored got = Score(server, request);
  INFO(got.status.error_message());
  REQUIRE(got.status.ok());
  const v1::Usage& usage = got.response.usage();
  CHECK(usage.cached_tokens() * 128 == (usage.prompt_tokens() - 128) * 127);
}

TEST_CASE("embeddings have the model's dimension and do not depend on their company") {
  TestServer server;
  server.ServeReal(WideConfig());
  v1::EmbedRequest request;
  for (const char* text : {"a fox", "the old king of the mountain", "a fox"}) {
    request.add_inputs()->set_text(text);
  }
  for (const v1::Pooling pooling : {v1::POOLING_UNSPECIFIED, v1::POOLING_MEAN}) {
    request.set_pooling(pooling);
    request.set_normalize(pooling == v1::POOLING_MEAN);
    const Embedded got = Embed(server, request);
    INFO(got.status.error_message());
    REQUIRE(got.status.ok());
    CHECK(got.response.dimension() == 256);
    REQUIRE(got.response.embeddings_size() == 3);
    int64_t num_tokens = 0;
    for (int i = 0; i < 3; ++i) {
      v1::EmbedRequest one = request;
      one.clear_inputs();
      *one.add_inputs() = request.inputs(i);
      const Embedded alone = Embed(server, one);
      REQUIRE(alone.status.ok());
      const v1::Embedding& embedding = got.response.embeddings(i);
      CHECK(embedding.SerializeAsString() == alone.response.embeddings(0).SerializeAsString());
      CHECK(embedding.values_size() == 256);
      num_tokens += embedding.prompt_tokens();
      double squares = 0;
      for (const float value : embedding.values()) {
        squares += static_cast<double>(value) * static_cast<double>(value);
      }
      CHECK((std::abs(squares - 1) < 1e-5) == request.normalize());
    }
    CHECK(got.response.usage().prompt_tokens() == num_tokens);
    CHECK(got.response.usage().completion_tokens() == 0);
  }
}

template <typename Request>
struct Case {
  std::string what;
  std::function<void(Request&)> spoil;
  std::string message;
  grpc::StatusCode code = grpc::StatusCode::INVALID_ARGUMENT;
};

std::vector<Case<v1::ScoreRequest>> ScoreCases() {
  using Request = v1::ScoreRequest;
  return {
      {"no prompt", [](Request& r) { r.clear_prompt(); }, "prompt: not set"},
      {"no continuation",
       [](Request& r) { r.clear_continuations(); },
       "continuations: 0 entries are not in [1, 128]"},
      {"too many",
       [](Request& r) {
         while (r.continuations_size() < 129) {
           r.add_continuations()->set_text(" a");
         }
       },
       "continuations: 129 entries are not in [1, 128]"},
      {"one without a kind",
       [](Request& r) { r.add_continuations(); },
       "continuations[1]: not set; set text or token_ids"},
      {"an empty text",
       [](Request& r) { r.add_continuations()->set_text(""); },
       "continuations[1].text: it adds no token to the prompt"},
      {"no ids",
       [](Request& r) { r.add_continuations()->mutable_token_ids(); },
       "continuations[1].token_ids.ids: empty"},
      {"an id past the vocabulary",
       [](Request& r) { r.add_continuations()->mutable_token_ids()->add_ids(4096); },
       "continuations[1][0]: token id 4096 is not in [0, 4096)"},
      {"a text that cuts the prompt otherwise",
       [](Request& r) {
         r.set_text("Once upon a ti");
         r.mutable_continuations(0)->set_text("me");
       },
       "continuations[0].text: together with it the prompt is cut into other tokens"},
      {"more than the context",
       [](Request& r) {
         v1::TokenIds& ids = *r.add_continuations()->mutable_token_ids();
         for (int i = 0; i < 256; ++i) {
           ids.add_ids(5);
         }
       },
       "continuations[1]: 256 tokens behind a prompt of"},
      {"too many alternatives",
       [](Request& r) { r.set_alternatives(21); },
       "alternatives: 21 is not in [0, 20]"},
      {"negative alternatives",
       [](Request& r) { r.set_alternatives(-1); },
       "alternatives: -1 is not in [0, 20]"},
      {"tokenize without text",
       [](Request& r) {
         r.mutable_token_ids()->add_ids(5);
         r.mutable_tokenize();
       },
       "tokenize: set beside token_ids"},
      {"a bad priority", [](Request& r) { r.set_priority(101); }, "priority: 101 is not in"},
      {"no time to wait",
       [](Request& r) { r.mutable_queue_timeout()->set_nanos(1); },
       "queue_timeout: 0 s and 1 ns is not in [1 ms, 24 h]"},
      {"a session",
       [](Request& r) { r.mutable_session()->set_id("s"); },
       "session: ",
       grpc::StatusCode::UNIMPLEMENTED},
      {"a model that is not served",
       [](Request& r) { r.set_model("other"); },
       "model: \"other\" is not served",
       grpc::StatusCode::NOT_FOUND},
      {"an unknown field",
       [](Request& r) { r.GetReflection()->MutableUnknownFields(&r)->AddVarint(99, 1); },
       "ringserve.v1.ScoreRequest: this server knows no field with number 99"},
  };
}

std::vector<Case<v1::EmbedRequest>> EmbedCases() {
  using Request = v1::EmbedRequest;
  return {
      {"no input", [](Request& r) { r.clear_inputs(); }, "inputs: 0 entries are not in [1, 128]"},
      {"one without a kind",
       [](Request& r) { r.add_inputs(); },
       "inputs[1]: not set; set text or token_ids"},
      {"an empty text", [](Request& r) { r.add_inputs()->set_text(""); }, "inputs[1].text: empty"},
      {"no ids",
       [](Request& r) { r.add_inputs()->mutable_token_ids(); },
       "inputs[1].token_ids.ids"},
      {"an id past the vocabulary",
       [](Request& r) { r.add_inputs()->mutable_token_ids()->add_ids(-1); },
       "inputs[1][0]: token id -1 is not in [0, 4096)"},
      {"more than the context",
       [](Request& r) {
         for (int i = 0; i < 257; ++i) {
           r.mutable_inputs(0)->mutable_token_ids()->add_ids(5);
         }
       },
       "inputs[0]: 257 tokens are more than 256, what the context holds"},
      {"a pooling that is none",
       [](Request& r) { r.set_pooling(static_cast<v1::Pooling>(7)); },
       "pooling: 7 is not in [0, 2]"},
      {"tokenize without text",
       [](Request& r) {
         r.mutable_inputs(0)->mutable_token_ids()->add_ids(5);
         r.mutable_tokenize();
       },
       "tokenize: set, and there is no text to tokenize"},
      {"a bad priority", [](Request& r) { r.set_priority(-101); }, "priority: -101 is not in"},
  };
}

TEST_CASE("bad score and embed requests are refused by name, and the server serves on") {
  TestServer server;
  server.ServeReal(WideConfig());
  for (const auto& bad : ScoreCases()) {
    CAPTURE(bad.what);
    v1::ScoreRequest request = ScoreTexts(kPrompt, {" a king"});
    bad.spoil(request);
    const Scored got = Score(server, request);
    CAPTURE(got.status.error_message());
    CHECK(got.status.error_code() == bad.code);
    CHECK(got.status.error_message().find(bad.message) != std::string::npos);
  }
  for (const auto& bad : EmbedCases()) {
    CAPTURE(bad.what);
    v1::EmbedRequest request;
    request.add_inputs()->set_text("a fox");
    bad.spoil(request);
    const Embedded got = Embed(server, request);
    CAPTURE(got.status.error_message());
    CHECK(got.status.error_code() == bad.code);
    CHECK(got.status.error_message().find(bad.message) != std::string::npos);
  }
  CHECK(Score(server, ScoreTexts(kPrompt, {" a king"})).status.ok());
}

TEST_CASE("what is more than queue and batch hold is refused by the field's name") {
  TestServer server;
  server.ServeReal();  // two and two
  CHECK(Score(server, ScoreTexts(kPrompt, {" a", " the", " an", " one"})).status.ok());
  const Scored scored = Score(server, ScoreTexts(kPrompt, {" a", " a", " a", " a", " a"}));
  CHECK(scored.status.error_message().find("continuations: 5 are more than 4") !=
        std::string::npos);
  v1::EmbedRequest request;
  for (int i = 0; i < 5; ++i) {
    request.add_inputs()->set_text("a fox");
  }
  CHECK(Embed(server, request).status.error_message().find("inputs: 5 are more than 4") !=
        std::string::npos);
}

TEST_CASE("a model with an encoder neither scores nor embeds") {
  EngineConfig config = SmallFairytaleConfig();
  config.model = {.name = "t5",
                  .path = std::string(RINGSERVE_SOURCE_DIR) + "/tests/fixtures/zoo/t5-v1_1"};
  TestServer server;
  server.ServeReal(config);
  v1::ScoreRequest score;
  score.mutable_token_ids()->add_ids(5);
  score.add_continuations()->mutable_token_ids()->add_ids(5);
  CHECK(Score(server, score).status.error_code() == grpc::StatusCode::UNIMPLEMENTED);
  v1::EmbedRequest embed;
  embed.add_inputs()->mutable_token_ids()->add_ids(5);
  CHECK(Embed(server, embed).status.error_code() == grpc::StatusCode::UNIMPLEMENTED);
}

TEST_CASE("a cancelled call cancels all of its parts; a failed part ends the call") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  const v1::ScoreRequest request = ScoreTexts(kPrompt, {" a king", " a fox"});
  const bool is_cancelled = GENERATE(true, false);
  grpc::ClientContext context;
  grpc::Status status;
  std::thread client([&] {
    v1::ScoreResponse response;
    status = v1::Inference::NewStub(server.channel())->Score(&context, request, &response);
  });
  const uint64_t first = engine.AwaitRequest();
  if (is_cancelled) {
    context.TryCancel();
    engine.AwaitCancel(first);
    engine.AwaitCancel(first + 1);
    engine.Say(first + 1, FailedEvent{.status = absl::CancelledError("cancelled"), .usage = {}});
  } else {
    engine.Say(first + 1,
               FailedEvent{.status = absl::DeadlineExceededError("too late"), .usage = {}});
    engine.AwaitCancel(first);
  }
  engine.Say(first, FailedEvent{.status = absl::CancelledError("cancelled"), .usage = {}});
  client.join();
  CHECK(status.error_code() ==
        (is_cancelled ? grpc::StatusCode::CANCELLED : grpc::StatusCode::DEADLINE_EXCEEDED));
}

TEST_CASE("readings count for their caller, and a deadline ends them") {
  TestServer server;
  server.ServeReal(WideConfig());
  REQUIRE(Score(server, ScoreTexts(kPrompt, {" a king", " a fox"})).status.ok());
  v1::EmbedRequest embed;
  embed.add_inputs()->set_text("a fox");
  REQUIRE(Embed(server, embed).status.ok());
  const auto control = v1::Control::NewStub(server.channel());
  grpc::ClientContext usage_context;
  v1::GetUsageResponse usage;
  REQUIRE(control->GetUsage(&usage_context, {}, &usage).ok());
  CHECK(usage.finished_requests() == 2);
  CHECK(usage.completion_tokens() > 2);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() - absl::Seconds(1)));
  v1::EmbedResponse response;
  CHECK(v1::Inference::NewStub(server.channel())->Embed(&context, embed, &response).error_code() ==
        grpc::StatusCode::DEADLINE_EXCEEDED);
}

}  // namespace
}  // namespace ringserve
