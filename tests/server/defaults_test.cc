// What holds for requests that do not say: the folder's generation_config.json, the config's word
// before it, and a request's own before both.
#include <string>

#include "ringserve/v1/models.grpc.pb.h"
#include "tests/support/model_folder.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

// The embedded model with another generation_config.json; none if it is "".
class Folder : public ModelFolder {
 public:
  explicit Folder(const std::string& generation_config) : ModelFolder("generation_config.json") {
    if (!generation_config.empty()) {
      Write("generation_config.json", generation_config);
    }
  }
};

v1::GenerationDefaults DefaultsOf(TestServer& server) {
  const auto models = v1::Models::NewStub(server.channel());
  grpc::ClientContext context;
  v1::Model model;
  REQUIRE(models->Get(&context, {}, &model).ok());
  return model.defaults();
}

// The embedded model says do_sample: true; `request` has all options of its own.
Stream Answer(const v1::GenerateRequest& request) {
  TestServer server;
  server.ServeReal();
  return Generate(server.channel(), request);
}

constexpr char kSampled[] =
    R"({"do_sample": true, "temperature": 0.7, "top_k": 12, "top_p": 0.9, "min_p": 0.02,
        "repetition_penalty": 1.25, "max_new_tokens": 9, "eos_token_id": 0})";

TEST_CASE("a request that says nothing is answered as the folder says") {
  const Folder folder(kSampled);
  TestServer server;
  server.ServeReal(folder.config());
  const v1::GenerationDefaults defaults = DefaultsOf(server);
  CHECK(defaults.temperature() == 0.7F);
  CHECK(defaults.top_k() == 12);
  CHECK(defaults.top_p() == 0.9F);
  CHECK(defaults.min_p() == 0.02F);
  CHECK(defaults.repetition_penalty() == 1.25F);
  CHECK(defaults.max_tokens() == 9);

  v1::GenerateRequest bare;
  bare.set_text("Once upon a time");
  const Stream by_default = Generate(server.channel(), bare);
  REQUIRE(by_default.status.ok());
  CHECK(by_default.token_ids().size() == 9);
  v1::GenerateRequest full = TextRequest("Once upon a time", 9);
  full.mutable_sampling()->set_temperature(0.7F);
  full.mutable_sampling()->set_top_k(12);
  full.mutable_sampling()->set_top_p(0.9F);
  full.mutable_sampling()->set_min_p(0.02F);
  full.mutable_sampling()->set_repetition_penalty(1.25F);
  CHECK(Answer(full).token_ids() == by_default.token_ids());
  // What a request says goes before, what is neutral too.
  full.mutable_sampling()->set_top_k(0);
  full.mutable_sampling()->set_min_p(0);
  full.mutable_sampling()->set_top_p(1);
  full.mutable_sampling()->set_repetition_penalty(1);
  full.mutable_sampling()->set_temperature(1);
  full.mutable_stopping()->set_max_tokens(30);
  CHECK(Generate(server.channel(), full).token_ids() == Answer(full).token_ids());
}

TEST_CASE("the config goes before the folder") {
  const Folder folder(kSampled);
  EngineConfig config = folder.config();
  config.generation.temperature = 0.0F;
  config.generation.repetition_penalty = 1.0F;
  config.generation.max_tokens = 5;
  TestServer server;
  server.ServeReal(config);
  CHECK(DefaultsOf(server).temperature() == 0);
  CHECK(DefaultsOf(server).top_k() == 12);
  CHECK(DefaultsOf(server).max_tokens() == 5);
  v1::GenerateRequest bare;
  bare.set_text("Once upon a time");
  v1::GenerateRequest greedy = TextRequest("Once upon a time", 5);
  greedy.mutable_sampling()->set_temperature(0);
  CHECK(Generate(server.channel(), bare).token_ids() == Answer(greedy).token_ids());
}

TEST_CASE("without do_sample, or without the file, answers are greedy") {
  v1::GenerateRequest greedy = TextRequest("Once upon a time", 12);
  greedy.mutable_sampling()->set_temperature(0);
  const Stream expected = Answer(greedy);
  for (const char* generation : {"", "{}", R"({"do_sample": false, "temperature": 0.9})"}) {
    INFO(generation);
    const Folder folder(generation);
    TestServer server;
    server.ServeReal(folder.config());
    CHECK(DefaultsOf(server).temperature() == 0);
    CHECK(DefaultsOf(server).max_tokens() == 256);
    CHECK(Generate(server.channel(), TextRequest("Once upon a time", 12)).token_ids() ==
          expected.token_ids());
    v1::GenerateRequest sampled = TextRequest("Once upon a time", 12);
    sampled.mutable_sampling()->set_temperature(1);
    CHECK(Generate(server.channel(), sampled).token_ids() == Answer(sampled).token_ids());
  }
}

}  // namespace
}  // namespace ringserve
