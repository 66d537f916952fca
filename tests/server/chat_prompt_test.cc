// Conversations as prompts: what the wire takes, and what the template and the tokenizer make of
// it.
#include <string>
#include <vector>

#include "ringserve/v1/models.grpc.pb.h"
#include "ringserve/v1/tokenizer.grpc.pb.h"
#include "tests/support/model_folder.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

using Json = nlohmann::ordered_json;

// Shows everything that it is given.
constexpr char kTemplate[] =
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% for call in m.tool_calls %}({{ call | tojson }}){% endfor %}"
    "{{ m.tool_call_id }}{{ m.name }}{{ m.mood }}\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}{% if documents %}{{ documents[0].title }}{% "
    "endif %}"
    "{% if thinking is defined %}{{ thinking }}{% endif %}"
    "{% if messages[0].content == 'date' %}{{ strftime_now('%Y-%m-%d') }}{% endif %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}";

// The embedded model with a chat template.
class ChatFolder : public ModelFolder {
 public:
  explicit ChatFolder(const std::string& chat_template = kTemplate) {
    Write("tokenizer_config.json", R"({"bos_token": "<|endoftext|>"})");
    Write("chat_template.jinja", chat_template);
  }
};

v1::ChatPrompt Conversation(const std::vector<std::pair<std::string, std::string>>& messages) {
  v1::ChatPrompt chat;
  for (const auto& [role, content] : messages) {
    v1::ChatMessage& message = *chat.add_messages();
    message.set_role(role);
    message.set_content(content);
  }
  return chat;
}

struct Rendered {
  grpc::Status status;
  v1::RenderChatResponse response;
};

Rendered Render(TestServer& server, const v1::RenderChatRequest& request) {
  const auto stub = v1::Tokenizer::NewStub(server.channel());
  grpc::ClientContext context;
  Rendered out;
  out.status = stub->RenderChat(&context, request, &out.response);
  return out;
}

std::string RenderText(TestServer& server, const v1::ChatPrompt& chat) {
  v1::RenderChatRequest request;
  *request.mutable_chat() = chat;
  const Rendered rendered = Render(server, request);
  INFO(rendered.status.error_message());
  REQUIRE(rendered.status.ok());
  return rendered.response.text();
}

TEST_CASE("a conversation is rendered, cut into tokens, and answered as its tokens are") {
  const ChatFolder folder;
  TestServer server;
  server.ServeReal(folder.config());
  const auto models = v1::Models::NewStub(server.channel());
  grpc::ClientContext context;
  v1::Model model;
  REQUIRE(models->Get(&context, {}, &model).ok());
  CHECK(model.has_chat_template());

  v1::RenderChatRequest request;
  *request.mutable_chat() = Conversation({{"system", "Tell tales."}, {"user", "Once upon"}});
  const Rendered rendered = Render(server, request);
  REQUIRE(rendered.status.ok());
  CHECK(rendered.response.text() ==
        "<|endoftext|>[system] Tell tales.\n[user] Once upon\n[assistant]");
  const auto tokenizer = Tokenizer::Load(folder.config().model.path);
  REQUIRE(tokenizer.ok());
  const auto ids = (*tokenizer)->Encode(rendered.response.text(), {.add_special_tokens = false});
  CHECK(std::vector<int32_t>(rendered.response.token_ids().begin(),
                             rendered.response.token_ids().end()) == *ids);
  CHECK(ids->front() == 0);  // the special token that the template wrote

  v1::GenerateRequest by_chat;
  *by_chat.mutable_chat() = request.chat();
  by_chat.mutable_stopping()->set_max_tokens(12);
  v1::GenerateRequest by_ids;
  *by_ids.mutable_token_ids()->mutable_ids() = rendered.response.token_ids();
  by_ids.mutable_stopping()->set_max_tokens(12);
  const Stream one = Generate(server.channel(), by_chat);
  const Stream two = Generate(server.channel(), by_ids);
  REQUIRE(one.status.ok());
  REQUIRE(two.status.ok());
  CHECK(one.token_ids() == two.token_ids());
  CHECK(one.events.back().finished().replay_digest() ==
        two.events.back().finished().replay_digest());
}

TEST_CASE("the template is given all that the prompt says") {
  const ChatFolder folder;
  TestServer server;
  server.ServeReal(folder.config());
  v1::ChatPrompt chat = Conversation({{"user", "weather?"}});
  v1::ChatMessage& call = *chat.add_messages();
  call.set_role("assistant");
  v1::ToolCall& tool_call = *call.add_tool_calls();
  tool_call.set_id("c1");
  tool_call.set_name("look");
  tool_call.set_arguments(R"({"where": "sea", "at": 7})");
  call.add_tool_calls()->set_name("wait");
  v1::ChatMessage& result = *chat.add_messages();
  result.set_role("tool");
  result.set_content("fog");
  result.set_tool_call_id("c1");
  result.set_name("look");
  chat.add_messages()->set_json(R"({"role": "user", "content": "so?", "mood": "glad"})");
  chat.add_tools(R"({"type": "function", "function": {"name": "look"}})");
  chat.add_documents(R"({"title": "D"})");
  chat.set_variables(R"({"thinking": false, "bos_token": "^"})");
  chat.set_add_generation_prompt(false);
  CHECK(RenderText(server, chat) ==
        "^[user] weather?\n[assistant] "
        R"(({"id": "c1", "type": "function", "function": {"name": "look", "arguments": )"
        R"({"where": "sea", "at": 7}}}))"
        R"(({"type": "function", "function": {"name": "wait", "arguments": {}}}))"
        "\n[tool] fogc1look\n[user] so?glad\n"
        R"([{"type": "function", "function": {"name": "look"}}])"
        "DFalse");
}

TEST_CASE("the date is the request's, or the day's") {
  const ChatFolder folder;
  TestServer server;
  server.ServeReal(folder.config());
  v1::ChatPrompt chat = Conversation({{"user", "date"}});
  chat.mutable_now()->set_seconds(951'782'399);
  CHECK(RenderText(server, chat) == "<|endoftext|>[user] date\n2000-02-28[assistant]");
  chat.clear_now();
  const std::string before = absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone());
  const std::string text = RenderText(server, chat);
  const std::string after = absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone());
  CHECK((text.find(before) != std::string::npos || text.find(after) != std::string::npos));
}

TEST_CASE("the last message is gone on with, and no generation prompt is added then") {
  const ChatFolder folder;
  TestServer server;
  server.ServeReal(folder.config());
  v1::ChatPrompt chat = Conversation({{"user", "Hi"}, {"assistant", "Once upon "}});
  chat.set_continue_final_message(true);
  CHECK(RenderText(server, chat) == "<|endoftext|>[user] Hi\n[assistant] Once upon ");
}

// As Hugging Face has it: the rendered text is cut as a whole.
TEST_CASE("special tokens spelled out in messages are special tokens") {
  const ChatFolder folder;
  TestServer server;
  server.ServeReal(folder.config());
  v1::RenderChatRequest request;
  *request.mutable_chat() = Conversation({{"user", "a<|endoftext|>b"}});
  const Rendered rendered = Render(server, request);
  REQUIRE(rendered.status.ok());
  CHECK(rendered.response.text() == "<|endoftext|>[user] a<|endoftext|>b\n[assistant]");
  const auto& ids = rendered.response.token_ids();
  CHECK(std::count(ids.begin(), ids.end(), 0) == 2);
}

struct ChatCase {
  std::string message;
  v1::ChatPrompt chat;
};

std::vector<ChatCase> ChatCases() {
  std::vector<ChatCase> cases;
  const auto add = [&cases](const std::string& message) -> v1::ChatPrompt& {
    cases.push_back({message, Conversation({{"user", "Hi"}})});
    return cases.back().chat;
  };
  const auto call_of = [](v1::ChatPrompt& chat) -> v1::ToolCall& {
    return *chat.mutable_messages(0)->add_tool_calls();
  };
  add("chat.messages: at least one message is needed").clear_messages();
  add("chat.messages[1].role: not set").add_messages()->set_content("x");
  add("chat.messages[0].json: excludes the other fields of the message")
      .mutable_messages(0)
      ->set_json("{}");
  add("chat.messages[1].json: a JSON array, not an object").add_messages()->set_json("[]");
  add("chat.messages[1].role: is missing").add_messages()->set_json("{}");
  add("chat.messages[1].json: role: duplicate key")
      .add_messages()
      ->set_json(R"({"role": "user", "role": "x"})");
  call_of(add("chat.messages[0].tool_calls[0].name: not set")).set_id("1");
  v1::ToolCall& call =
      call_of(add("chat.messages[0].tool_calls[0].arguments: a JSON string, not an object"));
  call.set_name("f");
  call.set_arguments("\"x\"");
  add("chat.tools[0]: a JSON number, not an object").add_tools("1");
  add("chat.documents[0]: a JSON null, not an object").add_documents("null");
  add("chat.variables: a JSON array, not an object").set_variables("[]");
  add("chat.variables.tools: it has a field of its own").set_variables(R"({"tools": []})");
  add("chat.now: 0 s and -1 ns are not in the years 1 to 9999").mutable_now()->set_nanos(-1);
  add("chat.now: 253402300800 s and 0 ns are not in the years 1 to 9999")
      .mutable_now()
      ->set_seconds(253'402'300'800);
  v1::ChatPrompt& both = add("chat.continue_final_message: excludes chat.add_generation_prompt");
  both.set_continue_final_message(true);
  both.set_add_generation_prompt(true);
  std::string deep = R"({"a": )" + std::string(64, '[');
  add("chat.variables: ").set_variables(deep + std::string(64, ']') + "}");
  std::string many = "{";
  for (int i = 0; i <= 1024; ++i) {
    many += fmt::format("{}\"k{}\": 0", i == 0 ? "" : ", ", i);
  }
  add("chat.variables: k1024: more than 1024 keys").set_variables(many + "}");
  return cases;
}

TEST_CASE("a chat that cannot be rendered is refused by name, by RenderChat and Generate alike") {
  const ChatFolder folder;
  TestServer server;
  server.ServeReal(folder.config());
  for (const ChatCase& c : ChatCases()) {
    INFO(c.message);
    v1::RenderChatRequest request;
    *request.mutable_chat() = c.chat;
    const grpc::Status status = Render(server, request).status;
    CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    CHECK(status.error_message().substr(0, c.message.size()) == c.message);
    v1::GenerateRequest generate;
    *generate.mutable_chat() = c.chat;
    const grpc::Status same = Generate(server.channel(), generate).status;
    CHECK(same.error_code() == status.error_code());
    CHECK(same.error_message() == status.error_message());
  }
  v1::GenerateRequest request;
  *request.mutable_chat() = Conversation({{"user", "Hi"}});
  request.mutable_tokenize();
  CHECK(Generate(server.channel(), request).status.error_message() ==
        "tokenize: set beside chat, whose text is cut as a whole");
}

TEST_CASE("a template that raises, or never ends, is an error of the request") {
  const ChatFolder folder(
      "{% if messages[0].content == 'loop' %}{% for i in range(99999) %}{% for j in range(99999) %}"
      "{% endfor %}{% endfor %}{% elif messages[0].content == 'nothing' %}{% else %}"
      "{{ raise_exception('only loops') }}{% endif %}");
  TestServer server;
  server.ServeReal(folder.config());
  const auto status_of = [&server](const std::string& content) {
    v1::GenerateRequest request;
    *request.mutable_chat() = Conversation({{"user", content}});
    return Generate(server.channel(), request).status;
  };
  CHECK(status_of("loop").error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(status_of("x").error_message() == "chat: the template: line 1: only loops");
  CHECK(status_of("nothing").error_message() == "chat: the template makes no text of it");
}

TEST_CASE("a model without a template refuses chats and says what it takes") {
  TestServer server;
  server.ServeReal();
  const std::string why =
      "chat: the folder of model \"fairytale-5m\" has no chat template; send text or token_ids";
  v1::RenderChatRequest request;
  *request.mutable_chat() = Conversation({{"user", "Hi"}});
  const grpc::Status status = Render(server, request).status;
  CHECK(status.error_code() == grpc::StatusCode::FAILED_PRECONDITION);
  CHECK(status.error_message() == why);
  v1::GenerateRequest generate;
  *generate.mutable_chat() = request.chat();
  CHECK(Generate(server.channel(), generate).status.error_message() == why);
}

TEST_CASE("a template that cannot be read keeps the model from being served") {
  const ChatFolder folder("{% for %}");
  StreamPump pump;
  const auto model = LoadServedModel(folder.config(), pump, nullptr, nullptr);
  CHECK(model.status().ToString().find("chat_template.jinja: line 1: ") != std::string::npos);
}

}  // namespace
}  // namespace ringserve
