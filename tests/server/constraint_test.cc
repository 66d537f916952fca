// Constrained output over the wire, with the embedded model.
#include <regex>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/json_schema_validator.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

using Json = nlohmann::ordered_json;

TEST_CASE("a completion under a constraint meets it, or says that it was cut off") {
  TestServer server;
  server.ServeReal();
  const std::string schema =
      R"({"type":"object","properties":{"name":{"type":"string","maxLength":8},"age":{"type":"integer","minimum":1,)"
      R"("maximum":120},"kind":{"enum":["king","fox"]}},"required":["name","age","kind"],"additionalProperties":false})";
  const Json parsed = Json::parse(schema);
  for (uint64_t seed = 0; seed < 10; ++seed) {
    v1::GenerateRequest request = TextRequest("Once upon a time", 150);
    request.mutable_sampling()->set_seed(seed);
    request.mutable_constraint()->set_json_schema(schema);
    const Stream stream = Generate(server.channel(), request);
    INFO(stream.text() << stream.status.error_message());
    REQUIRE(stream.status.ok());
    const v1::Finished& finished = stream.events.back().finished();
    CHECK(finished.reason() == v1::FINISH_REASON_STOP_TOKEN);
    CHECK(finished.has_constraint_met());
    CHECK(finished.constraint_met());
    CHECK(JsonSchemaValidator(parsed).Allows(Json::parse(stream.text())));
  }
  v1::GenerateRequest request = TextRequest("Once upon a time", 3);
  request.mutable_constraint()->set_json_schema(schema);
  const Stream stream = Generate(server.channel(), request);
  REQUIRE(stream.status.ok());
  CHECK(stream.events.back().finished().reason() == v1::FINISH_REASON_MAX_TOKENS);
  CHECK(stream.events.back().finished().has_constraint_met());
  CHECK_FALSE(stream.events.back().finished().constraint_met());
  request.clear_constraint();
  CHECK_FALSE(Generate(server.channel(), request).events.back().finished().has_constraint_met());
}

TEST_CASE("regex, choices and json_object hold completions, beside penalties and biases") {
  TestServer server;
  server.ServeReal();
  v1::GenerateRequest request = TextRequest("Once upon a time", 200);
  request.mutable_sampling()->set_frequency_penalty(0.5F);
  request.mutable_constraint()->set_regex("(the|a) [a-z]{3,9}( and [a-z]{2,7})?\\.");
  const std::string sentence = Generate(server.channel(), request).text();
  INFO(sentence);
  CHECK(std::regex_match(sentence, std::regex("(the|a) [a-z]{3,9}( and [a-z]{2,7})?\\.")));
  v1::Choices& choices = *request.mutable_constraint()->mutable_choices();
  for (const char* text : {"fox", "the old king", "the old queen"}) {
    choices.add_texts(text);
  }
  const std::string choice = Generate(server.channel(), request).text();
  INFO(choice);
  CHECK((choice == "fox" || choice == "the old king" || choice == "the old queen"));
  request.mutable_constraint()->mutable_json_object();
  request.mutable_sampling()->set_temperature(0);
  const Stream object = Generate(server.channel(), request);
  INFO(object.text());
  REQUIRE(object.status.ok());
  if (object.events.back().finished().constraint_met()) {
    CHECK(Json::parse(object.text()).is_object());
  }
}

TEST_CASE("a constraint leaves log probabilities as the model has them") {
  TestServer server;
  server.ServeReal();
  v1::GenerateRequest request = TextRequest("Once upon a time", 6);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_output()->set_logprobs(1);
  const Stream plain = Generate(server.channel(), request);
  request.mutable_constraint()->set_regex(
      "[^\\u0000]*");  // keeps the model from nothing it says here
  const Stream held = Generate(server.channel(), request);
  REQUIRE(held.status.ok());
  CHECK(plain.token_ids() == held.token_ids());
  CHECK(plain.events.back().finished().replay_digest() ==
        held.events.back().finished().replay_digest());
}

TEST_CASE("bad constraints are refused by field and place") {
  TestServer server;
  server.ServeReal();
  const auto refusal = [&](const std::function<void(v1::GenerateRequest&)>& spoil) {
    v1::GenerateRequest request = TextRequest("Once upon a time", 4);
    spoil(request);
    const grpc::Status status = Generate(server.channel(), request).status;
    CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    return status.error_message();
  };
  using Request = v1::GenerateRequest;
  CHECK(refusal([](Request& r) { r.mutable_constraint(); }) ==
        "constraint: not set; set json_schema, regex, choices or json_object");
  CHECK(refusal([](Request& r) {
          r.mutable_constraint()->set_json_schema(R"({"properties":{"a":{"if":true}}})");
        }) == "constraint.json_schema: #/properties/a/if: this keyword is not supported");
  CHECK(refusal([](Request& r) { r.mutable_constraint()->set_regex("(a"); }) ==
        "constraint.regex: at byte 0: '(' without ')'");
  CHECK(refusal([](Request& r) { r.mutable_constraint()->mutable_choices(); }) ==
        "constraint.choices.texts: 0 choices, not in [1, 10000]");
  CHECK(refusal([](Request& r) {
          r.mutable_constraint()->mutable_json_object();
          r.mutable_stopping()->set_ignore_eos(true);
        }) == "stopping.ignore_eos: set beside a constraint, whose text it keeps from ending");
  CHECK(refusal([](Request& r) {
          r.mutable_constraint()->mutable_json_object();
          r.mutable_stopping()->set_min_tokens(2);
        }) ==
        "stopping.min_tokens: 2 beside a constraint, which says itself when its text may end");
}

}  // namespace
}  // namespace ringserve
