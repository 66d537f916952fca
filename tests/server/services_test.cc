// The unary services, health and reflection.
#include <string>
#include <vector>

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/generic/generic_stub.h>

#include "ringserve/v1/control.grpc.pb.h"
#include "ringserve/v1/models.grpc.pb.h"
#include "ringserve/v1/tokenizer.grpc.pb.h"
#include "tests/support/raw_stream.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

TEST_CASE("text goes to tokens and back") {
  TestServer server;
  server.ServeReal();
  const auto stub = v1::Tokenizer::NewStub(server.channel());
  grpc::ClientContext context;
  v1::TokenizeRequest request;
  const std::string text = "Once upon a time<|endoftext|> \xc3\xa9t\xc3\xa9";
  request.set_text(text);
  v1::TokenizeResponse tokens;
  REQUIRE(stub->Tokenize(&context, request, &tokens).ok());
  REQUIRE(tokens.token_ids_size() == tokens.token_bytes_size());
  grpc::ClientContext back_context;
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  back.set_include_special_tokens(true);
  v1::DetokenizeResponse response;
  REQUIRE(stub->Detokenize(&back_context, back, &response).ok());
  CHECK(response.text() == text);

  grpc::ClientContext plain_context;
  request.mutable_options()->set_parse_special_tokens(false);
  v1::TokenizeResponse plain;
  REQUIRE(stub->Tokenize(&plain_context, request, &plain).ok());
  CHECK(plain.token_ids_size() > tokens.token_ids_size());
}

TEST_CASE("models and memory plan tell what is served") {
  TestServer server;
  server.ServeReal();
  const auto models = v1::Models::NewStub(server.channel());
  grpc::ClientContext context;
  v1::ListModelsResponse list;
  REQUIRE(models->List(&context, {}, &list).ok());
  REQUIRE(list.models_size() == 1);
  const v1::Model& model = list.models(0);
  CHECK(model.name() == "fairytale-5m");
  CHECK(model.state() == v1::MODEL_STATE_READY);
  CHECK(model.architecture() == "LlamaForCausalLM");
  CHECK(model.vocab_size() == 4096);
  CHECK(model.num_layers() == 6);
  CHECK(model.buffer_size() == 256);
  CHECK(model.overflow() == v1::OVERFLOW_REFUSE);
  CHECK(model.max_prompt_tokens() > 0);
  CHECK(model.config_json().find("\"buffer_size\": 256") != std::string::npos);

  const auto control = v1::Control::NewStub(server.channel());
  grpc::ClientContext plan_context;
  v1::GetMemoryPlanResponse plan;
  REQUIRE(control->GetMemoryPlan(&plan_context, {}, &plan).ok());
  CHECK(plan.device_bytes() ==
        plan.weight_bytes() + plan.workspace_bytes() + plan.device_kv_bytes());
  CHECK(plan.device_kv_bytes() == plan.device_blocks() * plan.block_bytes());
  CHECK(plan.table().find("KV pool") != std::string::npos);

  REQUIRE(Generate(server.channel(), TextRequest("Once upon a time", 7)).status.ok());
  grpc::ClientContext load_context;
  v1::GetLoadResponse load;
  REQUIRE(control->GetLoad(&load_context, {}, &load).ok());
  REQUIRE(load.models_size() == 1);
  CHECK(load.models(0).completion_tokens() == 7);
  CHECK(load.models(0).running() == 0);
  CHECK(load.models(0).device_blocks_free() == load.models(0).device_blocks());
  CHECK(load.connections() == 1);
  CHECK(load.max_connections() == 1024);
}

TEST_CASE("before its models are loaded the server asks to come back") {
  TestServer server;
  const Stream stream = Generate(server.channel(), TextRequest("a", 1));
  CHECK(stream.status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(stream.status.error_message() == "the server is loading its models");
  CHECK_FALSE(stream.status.error_details().empty());
  server.ServeReal();
  CHECK(Generate(server.channel(), TextRequest("a", 1)).status.ok());
}

// grpc.health.v1: HealthCheckRequest.service is field 1; HealthCheckResponse.status is field 1,
// SERVING is 1, NOT_SERVING 2.
const std::string kServing = "\x08\x01";
const std::string kNotServing = "\x08\x02";

TEST_CASE("health follows the server's state, and Watch tells each change") {
  TestServer server;
  RawStream watch(server.channel(), "/grpc.health.v1.Health/Watch", "");
  CHECK(watch.Read() == kNotServing);
  RawStream before(server.channel(), "/grpc.health.v1.Health/Check", "");
  CHECK(before.Read() == kNotServing);
  server.ServeReal();
  CHECK(watch.Read() == kServing);
  const std::string inference = "ringserve.v1.Inference";
  RawStream check(server.channel(),
                  "/grpc.health.v1.Health/Check",
                  std::string("\x0a") + static_cast<char>(inference.size()) + inference);
  CHECK(check.Read() == kServing);
  RawStream unknown(server.channel(), "/grpc.health.v1.Health/Check", "\x0a\x01x");
  CHECK(unknown.Read().empty());
  CHECK(unknown.Finish().error_code() == grpc::StatusCode::NOT_FOUND);
  server.server().Drain(absl::Now());
  CHECK(watch.Read() == kNotServing);
}

TEST_CASE("reflection lists the services") {
  TestServer server;
  // ServerReflectionRequest.list_services is field 7, a string.
  RawStream stream(server.channel(),
                   "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                   std::string("\x3a\x01*"));
  const std::string answer = stream.Read();
  for (const char* service : {"ringserve.v1.Inference",
                              "ringserve.v1.Tokenizer",
                              "ringserve.v1.Models",
                              "ringserve.v1.Control",
                              "grpc.health.v1.Health"}) {
    INFO(service);
    CHECK(answer.find(service) != std::string::npos);
  }
}

}  // namespace
}  // namespace ringserve
