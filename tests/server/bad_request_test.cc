// Everything that may be wrong with a request, and what it is answered. After each the server
// serves on.
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <grpcpp/generic/generic_stub.h>

#include "ringserve/v1/models.grpc.pb.h"
#include "ringserve/v1/tokenizer.grpc.pb.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Case {
  std::string what;
  std::function<void(v1::GenerateRequest&)> spoil;
  std::string message;
  grpc::StatusCode code = grpc::StatusCode::INVALID_ARGUMENT;
};

using Request = v1::GenerateRequest;

std::vector<Case> PromptCases() {
  return {
      {"no prompt",
       [](Request& r) { r.clear_prompt(); },
       "prompt: not set; set text, token_ids or chat"},
      {"empty text",
       [](Request& r) { r.set_text(""); },
       "text: empty, and this model's tokenizer adds nothing to it"},
      {"empty ids",
       [](Request& r) { r.mutable_token_ids(); },
       "token_ids.ids: empty; at least one token is needed"},
      {"an id that is negative",
       [](Request& r) { r.mutable_token_ids()->add_ids(-1); },
       "prompt[0]: token id -1 is not in [0, 4096)"},
      {"an id past the vocabulary",
       [](Request& r) {
         r.mutable_token_ids()->add_ids(4095);
         r.mutable_token_ids()->add_ids(4096);
       },
       "prompt[1]: token id 4096 is not in [0, 4096)"},
      {"a text longer than the context",
       [](Request& r) {
         std::string text;
         for (int i = 0; i < 1000; ++i) {
           text += " and";
         }
         r.set_text(text);
       },
       "prompt: 1000 tokens are more than 256, what the context holds"},
      {"ids beyond the context",
       [](Request& r) { r.mutable_token_ids()->mutable_ids()->Resize(257, 5); },
       "prompt: 257 tokens are more than 256, what the context holds"},
      {"tokenize beside ids",
       [](Request& r) {
         r.mutable_token_ids()->add_ids(5);
         r.mutable_tokenize()->set_add_special_tokens(false);
       },
       "tokenize: set beside token_ids, and there is no text to tokenize"},
      {"a model that is not served",
       [](Request& r) { r.set_model("gpt"); },
       "model: \"gpt\" is not served; served: fairytale-5m",
       grpc::StatusCode::NOT_FOUND},
      {"a model name without end",
       [](Request& r) { r.set_model(std::string(100'000, 'x')); },
       fmt::format("model: \"{}\" is not served; served: fairytale-5m", std::string(128, 'x')),
       grpc::StatusCode::NOT_FOUND},
      {"a field of a later version",
       [](Request& r) { r.GetReflection()->MutableUnknownFields(&r)->AddVarint(5, 1); },
       "ringserve.v1.GenerateRequest: this server knows no field with number 5"},
      {"a field of a later version, further in",
       [](Request& r) {
         v1::SamplingOptions& s = *r.mutable_sampling();
         s.GetReflection()->MutableUnknownFields(&s)->AddVarint(99, 1);
       },
       "ringserve.v1.SamplingOptions: this server knows no field with number 99"},
  };
}

std::vector<Case> SamplingCases() {
  const auto sampling = [](auto set) { return [set](Request& r) { set(*r.mutable_sampling()); }; };
  using Sampling = v1::SamplingOptions;
  const auto bias = [](int32_t id, float value) {
    return [id, value](Request& r) {
      v1::LogitBias& entry = *r.mutable_sampling()->add_logit_bias();
      entry.set_token_id(id);
      entry.set_bias(value);
    };
  };
  return {
      {"temperature NaN",
       sampling([](Sampling& s) { s.set_temperature(kNan); }),
       "sampling.temperature: nan is not in [0, 100]"},
      {"temperature below 0",
       sampling([](Sampling& s) { s.set_temperature(-0.5F); }),
       "sampling.temperature: -0.5 is not in [0, 100]"},
      {"temperature infinite",
       sampling([](Sampling& s) { s.set_temperature(kInf); }),
       "sampling.temperature: inf is not in [0, 100]"},
      {"top_k below 0",
       sampling([](Sampling& s) { s.set_top_k(-1); }),
       "sampling.top_k: -1 is not in [0, 4096]"},
      {"top_k past the vocabulary",
       sampling([](Sampling& s) { s.set_top_k(4097); }),
       "sampling.top_k: 4097 is not in [0, 4096]"},
      {"top_p 0",
       sampling([](Sampling& s) { s.set_top_p(0); }),
       "sampling.top_p: 0 is not in (0, 1]"},
      {"top_p above 1",
       sampling([](Sampling& s) { s.set_top_p(1.5F); }),
       "sampling.top_p: 1.5 is not in (0, 1]"},
      {"top_p NaN",
       sampling([](Sampling& s) { s.set_top_p(kNan); }),
       "sampling.top_p: nan is not in (0, 1]"},
      {"min_p below 0",
       sampling([](Sampling& s) { s.set_min_p(-1); }),
       "sampling.min_p: -1 is not in [0, 1]"},
      {"min_p NaN",
       sampling([](Sampling& s) { s.set_min_p(kNan); }),
       "sampling.min_p: nan is not in [0, 1]"},
      {"repetition_penalty 0",
       sampling([](Sampling& s) { s.set_repetition_penalty(0); }),
       "sampling.repetition_penalty: 0 is not in (0, 10]"},
      {"repetition_penalty infinite",
       sampling([](Sampling& s) { s.set_repetition_penalty(kInf); }),
       "sampling.repetition_penalty: inf is not in (0, 10]"},
      {"presence_penalty out of range",
       sampling([](Sampling& s) { s.set_presence_penalty(2.5F); }),
       "sampling.presence_penalty: 2.5 is not in [-2, 2]"},
      {"frequency_penalty NaN",
       sampling([](Sampling& s) { s.set_frequency_penalty(kNan); }),
       "sampling.frequency_penalty: nan is not in [-2, 2]"},
      {"bias out of range",
       bias(5, 101),
       "sampling.logit_bias[0]: bias 101 is not in [-100, 100] and not -inf"},
      {"bias +inf",
       bias(5, kInf),
       "sampling.logit_bias[0]: bias inf is not in [-100, 100] and not -inf"},
      {"bias for no token",
       bias(4096, 1),
       "sampling.logit_bias[0]: token id 4096 is not in [0, 4096)"},
      {"bias twice for one token",
       [bias](Request& r) {
         bias(5, 1)(r);
         bias(5, 2)(r);
       },
       "sampling.logit_bias: token id 5 is named twice"},
      {"2000 biases",
       [bias](Request& r) {
         for (int i = 0; i < 2000; ++i) {
           bias(i, 1)(r);
         }
       },
       "sampling.logit_bias: 2000 entries are more than 1024"},
  };
}

std::vector<Case> StoppingAndOutputCases() {
  const auto stopping = [](auto set) { return [set](Request& r) { set(*r.mutable_stopping()); }; };
  using Stopping = v1::StoppingOptions;
  return {
      {"max_tokens 0",
       stopping([](Stopping& s) { s.set_max_tokens(0); }),
       "stopping.max_tokens: 0 is not in [1, 2147483647]"},
      {"max_tokens below 0",
       stopping([](Stopping& s) { s.set_max_tokens(-5); }),
       "stopping.max_tokens: -5 is not in [1, 2147483647]"},
      {"max_tokens 2^31",
       stopping([](Stopping& s) { s.set_max_tokens(int64_t{1} << 31); }),
       "stopping.max_tokens: 2147483648 is not in [1, 2147483647]"},
      {"max_tokens 2^32 + 1",
       stopping([](Stopping& s) { s.set_max_tokens((int64_t{1} << 32) + 1); }),
       "stopping.max_tokens: 4294967297 is not in [1, 2147483647]"},
      {"min_tokens below 0",
       stopping([](Stopping& s) { s.set_min_tokens(-1); }),
       "stopping.min_tokens: -1 is not in [0, max_tokens = 4]"},
      {"min_tokens above max_tokens",
       stopping([](Stopping& s) { s.set_min_tokens(5); }),
       "stopping.min_tokens: 5 is not in [0, max_tokens = 4]"},
      {"10,000 stop strings",
       stopping([](Stopping& s) {
         for (int i = 0; i < 10'000; ++i) {
           s.add_stop_strings(std::string(1, 'x'));
         }
       }),
       "stopping.stop_strings: 10000 strings are more than 64"},
      {"an empty stop string",
       stopping([](Stopping& s) {
         s.add_stop_strings(std::string(1, 'x'));
         s.add_stop_strings(std::string());
       }),
       "stopping.stop_strings[1]: 0 bytes, not in [1, 1024]"},
      {"a stop string without end",
       stopping([](Stopping& s) { s.add_stop_strings(std::string(1025, 'x')); }),
       "stopping.stop_strings[0]: 1025 bytes, not in [1, 1024]"},
      {"a stop token past the vocabulary",
       stopping([](Stopping& s) { s.add_stop_token_ids(1 << 20); }),
       "stopping.stop_token_ids[0]: token id 1048576 is not in [0, 4096)"},
      {"5000 stop tokens",
       stopping([](Stopping& s) { s.mutable_stop_token_ids()->Resize(5000, 7); }),
       "stopping.stop_token_ids: 5000 entries are more than 1024"},
      {"logprobs below 0",
       [](Request& r) { r.mutable_output()->set_logprobs(-1); },
       "output.logprobs: -1 is not in [0, 20]"},
      {"21 logprobs",
       [](Request& r) { r.mutable_output()->set_logprobs(21); },
       "output.logprobs: 21 is not in [0, 20]"},
      {"priority out of range",
       [](Request& r) { r.set_priority(101); },
       "priority: 101 is not in [-100, 100]"},
      {"queue_timeout 0",
       [](Request& r) { r.mutable_queue_timeout(); },
       "queue_timeout: 0 s and 0 ns is not in [1 ms, 24 h]"},
      {"queue_timeout below 0",
       [](Request& r) { r.mutable_queue_timeout()->set_seconds(-1); },
       "queue_timeout: -1 s and 0 ns is not in [1 ms, 24 h]"},
      {"queue_timeout of a year",
       [](Request& r) { r.mutable_queue_timeout()->set_seconds(31'536'000); },
       "queue_timeout: 31536000 s and 0 ns is not in [1 ms, 24 h]"},
      {"queue_timeout that is no duration",
       [](Request& r) {
         r.mutable_queue_timeout()->set_seconds(1);
         r.mutable_queue_timeout()->set_nanos(-5);
       },
       "queue_timeout: 1 s and -5 ns is not in [1 ms, 24 h]"},
  };
}

void CheckServes(TestServer& server) {
  const Stream stream = Generate(server.channel(), TextRequest("Once", 1));
  INFO(stream.status.error_message());
  REQUIRE(stream.status.ok());
  REQUIRE(stream.token_ids().size() == 1);
}

TEST_CASE("every bad request is told what is wrong with it") {
  TestServer server;
  server.ServeReal();
  for (const auto& cases : {PromptCases(), SamplingCases(), StoppingAndOutputCases()}) {
    for (const Case& bad : cases) {
      INFO(bad.what);
      v1::GenerateRequest request = TextRequest("Once upon a time", 4);
      bad.spoil(request);
      const Stream stream = Generate(server.channel(), request);
      CHECK(stream.events.empty());
      CHECK(stream.status.error_code() == bad.code);
      CHECK(stream.status.error_message() == bad.message);
      CheckServes(server);
    }
  }
}

// Calls a method with bytes of our choice.
grpc::Status CallRaw(TestServer& server, const std::string& method, const std::string& bytes) {
  grpc::GenericStub stub(server.channel());
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  const auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  REQUIRE(queue.Next(&tag, &ok));
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  return status;
}

// Field `number` as length-delimited `bytes`.
std::string Field(int number, const std::string& bytes) {
  std::string field;
  field.push_back(static_cast<char>(number << 3 | 2));
  field.push_back(static_cast<char>(bytes.size()));
  field.append(bytes);
  return field;
}

TEST_CASE("bytes that are no message are told apart from text that is no UTF-8") {
  TestServer server;
  server.ServeReal();
  const std::string generate = "/ringserve.v1.Inference/Generate";
  const std::string tokenize = "/ringserve.v1.Tokenizer/Tokenize";

  struct RawCase {
    std::string method;
    std::string bytes;
    std::string message;
  };

  const std::vector<RawCase> cases = {
      {generate, Field(2, "a\xffz"), "ringserve.v1.GenerateRequest.text: not UTF-8"},
      {generate, Field(2, "cut \xe2\x82"), "ringserve.v1.GenerateRequest.text: not UTF-8"},
      {generate, Field(2, "\xed\xa0\x80"), "ringserve.v1.GenerateRequest.text: not UTF-8"},
      {generate, Field(2, "\xc0\xaf"), "ringserve.v1.GenerateRequest.text: not UTF-8"},
      {generate, Field(1, "\x80"), "ringserve.v1.GenerateRequest.model: not UTF-8"},
      {generate,
       Field(2, "a") + Field(8, Field(5, "\xff")),
       "ringserve.v1.StoppingOptions.stop_strings: not UTF-8"},
      {generate, "\x12\x7f", "the request's 2 bytes are not a ringserve.v1.GenerateRequest"},
      {generate, "\xff\xff\xff", "the request's 3 bytes are not a ringserve.v1.GenerateRequest"},
      {tokenize, Field(2, "\xff"), "ringserve.v1.TokenizeRequest.text: not UTF-8"},
      {tokenize, "\x07", "the request's 1 bytes are not a ringserve.v1.TokenizeRequest"},
      {tokenize,
       Field(9, "x"),
       "ringserve.v1.TokenizeRequest: this server knows no field with number 9"},
      {"/ringserve.v1.Models/Get",
       "\x08\x01",
       "ringserve.v1.GetModelRequest: this server knows no field with number 1"},
  };
  for (const RawCase& bad : cases) {
    INFO(bad.message);
    const grpc::Status status = CallRaw(server, bad.method, bad.bytes);
    CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    CHECK(status.error_message() == bad.message);
    CheckServes(server);
  }
  CHECK(CallRaw(server, "/ringserve.v1.Inference/Divine", "").error_code() ==
        grpc::StatusCode::UNIMPLEMENTED);
  CHECK(CallRaw(server, "/nobody.Nothing/At", "").error_code() == grpc::StatusCode::UNIMPLEMENTED);
  CheckServes(server);
}

TEST_CASE("a message over the limit is refused before it is read") {
  ServerOptions options = TestServer::DefaultOptions();
  options.max_request_bytes = 10'000;
  TestServer server(options);
  server.ServeReal();
  const Stream stream = Generate(server.channel(), TextRequest(std::string(20'000, 'x'), 1));
  CHECK(stream.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CheckServes(server);
}

TEST_CASE("the unary services name what is wrong") {
  TestServer server;
  server.ServeReal();
  const auto tokenizer = v1::Tokenizer::NewStub(server.channel());
  const auto models = v1::Models::NewStub(server.channel());
  {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.set_model("other");
    v1::TokenizeResponse response;
    CHECK(tokenizer->Tokenize(&context, request, &response).error_code() ==
          grpc::StatusCode::NOT_FOUND);
  }
  for (const int32_t id : {-1, 4096, std::numeric_limits<int32_t>::max()}) {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.add_token_ids(5);
    request.add_token_ids(id);
    v1::DetokenizeResponse response;
    const grpc::Status status = tokenizer->Detokenize(&context, request, &response);
    CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    CHECK(status.error_message().find(std::to_string(id)) != std::string::npos);
  }
  {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    request.set_model("other");
    v1::Model response;
    CHECK(models->Get(&context, request, &response).error_code() == grpc::StatusCode::NOT_FOUND);
  }
  CheckServes(server);
}

}  // namespace
}  // namespace ringserve
