// A folder without a tokenizer: ids in, ids out.
#include <string>
#include <vector>

#include "ringserve/v1/models.grpc.pb.h"
#include "ringserve/v1/tokenizer.grpc.pb.h"
#include "tests/support/model_folder.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

class Folder : public ModelFolder {
 public:
  Folder() : ModelFolder("tokenizer.json") {
    Write("chat_template.jinja", "{{ messages[0].content }}");
  }
};

v1::GenerateRequest IdsRequest() {
  v1::GenerateRequest request;
  for (const int32_t id : {0, 1024, 77, 9, 300}) {
    request.mutable_token_ids()->add_ids(id);
  }
  request.mutable_stopping()->set_max_tokens(9);
  request.mutable_output()->set_logprobs(1);
  request.mutable_output()->set_echo(true);
  return request;
}

TEST_CASE("ids are answered as by the model with its tokenizer, without texts") {
  const Folder folder;
  TestServer server;
  server.ServeReal(folder.config());
  const Stream stream = Generate(server.channel(), IdsRequest());
  REQUIRE(stream.status.ok());
  TestServer whole;
  whole.ServeReal();
  const Stream same = Generate(whole.channel(), IdsRequest());
  CHECK(stream.token_ids() == same.token_ids());
  CHECK(stream.events.back().finished().replay_digest() ==
        same.events.back().finished().replay_digest());
  CHECK(stream.text().empty());
  for (const v1::GenerateEvent& event : stream.events) {
    for (const v1::ScoredToken& token : event.delta().tokens()) {
      CHECK(token.token_bytes().empty());
      CHECK(token.has_logprob());
    }
  }
  const auto models = v1::Models::NewStub(server.channel());
  grpc::ClientContext context;
  v1::Model model;
  REQUIRE(models->Get(&context, {}, &model).ok());
  CHECK_FALSE(model.has_tokenizer());
}

TEST_CASE("whatever needs a tokenizer is refused by name") {
  const Folder folder;
  TestServer server;
  server.ServeReal(folder.config());
  const auto refused = [](const grpc::Status& status, const std::string& field) {
    CHECK(status.error_code() == grpc::StatusCode::FAILED_PRECONDITION);
    CHECK(status.error_message() == field +
                                        ": the folder of model \"fairytale-5m\" has neither "
                                        "tokenizer.json nor tokenizer.model; send token_ids");
  };
  refused(Generate(server.channel(), TextRequest("Once", 3)).status, "text");
  v1::GenerateRequest chat;
  chat.mutable_chat()->add_messages()->set_role("user");
  refused(Generate(server.channel(), chat).status, "chat");
  v1::GenerateRequest stops = IdsRequest();
  stops.mutable_stopping()->add_stop_strings("x");
  refused(Generate(server.channel(), stops).status, "stopping.stop_strings");
  const auto tokenizer = v1::Tokenizer::NewStub(server.channel());
  {
    grpc::ClientContext context;
    v1::TokenizeResponse response;
    refused(tokenizer->Tokenize(&context, {}, &response), "text");
  }
  grpc::ClientContext context;
  v1::DetokenizeResponse response;
  refused(tokenizer->Detokenize(&context, {}, &response), "token_ids");
}

}  // namespace
}  // namespace ringserve
