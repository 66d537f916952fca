#include "engine/chat/chat_template.h"

#include <string>

#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kSimple[] =
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}{{ extra }}{{ tools is none }}";

ChatPrompt Conversation() {
  ChatPrompt prompt;
  prompt.messages = Json::parse(R"([{"role": "user", "content": " Hi "},
                                    {"role": "assistant", "content": "Once upon "}])");
  return prompt;
}

ChatTemplate LoadFrom(const TempDir& dir) {
  auto loaded = ChatTemplate::Load(dir.path());
  INFO(loaded.status().ToString());
  REQUIRE(loaded.ok());
  REQUIRE(loaded->has_value());
  return **std::move(loaded);
}

std::string ConfigWith(const Json& chat_template) {
  return Json{{"bos_token", "<s>"},
              {"eos_token", {{"content", "</s>"}, {"lstrip", false}}},
              {"chat_template", chat_template}}
      .dump();
}

TEST_CASE("a folder without a template has none") {
  const TempDir dir;
  auto loaded = ChatTemplate::Load(dir.path());
  REQUIRE(loaded.ok());
  CHECK_FALSE(loaded->has_value());
  dir.Write("tokenizer_config.json", R"({"bos_token": "<s>", "chat_template": null})");
  CHECK_FALSE(ChatTemplate::Load(dir.path())->has_value());
}

TEST_CASE("a conversation is rendered with the model's special tokens") {
  const TempDir dir;
  dir.Write("tokenizer_config.json", ConfigWith(kSimple));
  const ChatTemplate chat = LoadFrom(dir);
  ChatPrompt prompt = Conversation();
  CHECK(chat.Render(prompt, {}).value() ==
        "<s>[user] Hi </s>[assistant]Once upon </s>[assistant]True");
  prompt.add_generation_prompt = false;
  prompt.tools = Json::array({{{"name", "f"}}});
  prompt.variables = {{"extra", "!"}, {"bos_token", "^"}};
  CHECK(chat.Render(prompt, {}).value() == "^[user] Hi </s>[assistant]Once upon </s>!False");
}

TEST_CASE("the last message can be gone on with") {
  const TempDir dir;
  dir.Write("tokenizer_config.json", ConfigWith(kSimple));
  const ChatTemplate chat = LoadFrom(dir);
  ChatPrompt prompt = Conversation();
  prompt.add_generation_prompt = false;
  prompt.continue_final_message = true;
  CHECK(chat.Render(prompt, {}).value() == "<s>[user] Hi </s>[assistant]Once upon ");
  prompt.messages.back()["content"] = Json::array({{{"type", "text"}, {"text", "end"}}});
  CHECK(chat.Render(prompt, {}).value().find("'end") != std::string::npos);
  prompt.messages.back().erase("content");
  CHECK(chat.Render(prompt, {}).status() ==
        absl::InvalidArgumentError(
            "chat.continue_final_message: the last message has no text to go on with"));
}

TEST_CASE("a template file goes before the config") {
  const TempDir dir;
  dir.Write("tokenizer_config.json", ConfigWith("old"));
  dir.Write("chat_template.jinja", "new{{ bos_token }}");
  CHECK(LoadFrom(dir).Render(Conversation(), {}).value() == "new<s>");
}

TEST_CASE("of several templates the one for tools is taken with tools") {
  const TempDir dir;
  dir.Write("tokenizer_config.json",
            ConfigWith({{{"name", "default"}, {"template", "plain"}},
                        {{"name", "tool_use"}, {"template", "tools"}}}));
  const ChatTemplate chat = LoadFrom(dir);
  ChatPrompt prompt = Conversation();
  CHECK(chat.Render(prompt, {}).value() == "plain");
  prompt.tools = Json::array();
  CHECK(chat.Render(prompt, {}).value() == "tools");
}

TEST_CASE("a broken template is told when the folder is loaded") {
  const TempDir dir;
  const auto message_for = [&dir](const std::string& config) {
    dir.Write("tokenizer_config.json", config);
    const auto loaded = ChatTemplate::Load(dir.path());
    REQUIRE_FALSE(loaded.ok());
    return std::string(loaded.status().message()).substr(dir.path().size() + 1);
  };
  CHECK(message_for(ConfigWith("{% if %}")) ==
        "tokenizer_config.json: chat_template: line 1: expected an expression, got '%}'");
  CHECK(message_for(ConfigWith(7)) ==
        "tokenizer_config.json: chat_template: must be a string or an array");
  CHECK(message_for(ConfigWith({{{"name", "default"}}})) ==
        "tokenizer_config.json: chat_template[0]: must have the strings 'name' and 'template'");
  CHECK(message_for("[]") == "tokenizer_config.json: must be an object");
}

TEST_CASE("a prompt that cannot be rendered says why") {
  const TempDir dir;
  dir.Write(
      "chat_template.jinja",
      "{% if messages[0].role != 'user' %}{{ raise_exception('start with user') }}{% endif %}");
  const ChatTemplate chat = LoadFrom(dir);
  const auto message_of = [&chat](const ChatPrompt& prompt) {
    return std::string(chat.Render(prompt, {}).status().message());
  };
  ChatPrompt prompt = Conversation();
  CHECK(message_of(prompt).empty());
  prompt.messages[0]["role"] = "system";
  CHECK(message_of(prompt) == "chat: the template: line 1: start with user");
  prompt.messages[0].erase("role");
  CHECK(message_of(prompt) == "chat.messages[0].role: is missing");
  prompt.messages = Json::array();
  CHECK(message_of(prompt) == "chat.messages: at least one message is needed");
  prompt = Conversation();
  prompt.tools = "f";
  CHECK(message_of(prompt) == "chat.tools: must be an array");
  prompt = Conversation();
  prompt.documents = 1;
  CHECK(message_of(prompt) == "chat.documents: must be an array");
  prompt = Conversation();
  prompt.variables = Json::array();
  CHECK(message_of(prompt) == "chat.variables: must be an object");
  prompt.variables = {{"tools", 1}};
  CHECK(message_of(prompt) == "chat.variables.tools: it has a field of its own");
  prompt = Conversation();
  prompt.continue_final_message = true;
  CHECK(message_of(prompt) == "chat.continue_final_message: excludes chat.add_generation_prompt");
}

}  // namespace
}  // namespace ringserve
