#include "engine/chat/chat_template.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "engine/base/json_reader.h"
#include "engine/chat/python_text.h"

namespace ringserve {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxFileBytes = int64_t{16} << 20;
constexpr std::string_view kDefaultName = "default";
constexpr std::string_view kToolsName = "tool_use";

absl::Status Prefixed(std::string_view prefix, const absl::Status& status) {
  return {status.code(), fmt::format("{}: {}", prefix, std::string(status.message()))};
}

// The object in a file, or an empty one if the file is not there.
absl::StatusOr<nlohmann::json> ReadOptionalObject(const std::string& path) {
  if (!std::filesystem::exists(path)) {
    return nlohmann::json::object();
  }
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  ASSIGN_OR_RETURN(nlohmann::json json, ParseJson(text, path));
  if (!json.is_object()) {
    return absl::InvalidArgumentError(fmt::format("{}: must be an object", path));
  }
  return json;
}

// A special token is written as its text or as an object with its "content".
std::optional<std::string> TokenText(const nlohmann::json& token) {
  const nlohmann::json* content = &token;
  if (token.is_object() && token.contains("content")) {
    content = &token["content"];
  }
  return content->is_string() ? std::optional(content->get<std::string>()) : std::nullopt;
}

void CollectSpecialTokens(const nlohmann::json& config, Json* tokens) {
  static constexpr std::array<const char*, 7> kNames = {
      "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
  for (const char* name : kNames) {
    if (!config.contains(name)) {
      continue;
    }
    if (std::optional<std::string> text = TokenText(config[name])) {
      (*tokens)[name] = *std::move(text);
    }
  }
  if (config.contains("additional_special_tokens") &&
      config["additional_special_tokens"].is_array()) {
    Json list = Json::array();
    for (const nlohmann::json& token : config["additional_special_tokens"]) {
      if (std::optional<std::string> text = TokenText(token)) {
        list.push_back(*std::move(text));
      }
    }
    (*tokens)["additional_special_tokens"] = std::move(list);
  }
}

struct Source {
  std::string name;
  std::string text;
  std::string where;
};

absl::StatusOr<std::vector<Source>> SourcesInConfig(const nlohmann::json& config,
                                                    const std::string& path) {
  const std::string where = path + ": chat_template";
  std::vector<Source> sources;
  if (!config.contains("chat_template") || config["chat_template"].is_null()) {
    return sources;
  }
  const nlohmann::json& value = config["chat_template"];
  if (value.is_string()) {
    sources.push_back({std::string(kDefaultName), value.get<std::string>(), where});
    return sources;
  }
  if (!value.is_array()) {
    return absl::InvalidArgumentError(where + ": must be a string or an array");
  }
  for (size_t i = 0; i < value.size(); ++i) {
    const nlohmann::json& entry = value[i];
    const std::string place = fmt::format("{}[{}]", where, i);
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() ||
        !entry.contains("template") || !entry["template"].is_string()) {
      return absl::InvalidArgumentError(place + ": must have the strings 'name' and 'template'");
    }
    sources.push_back(
        {entry["name"].get<std::string>(), entry["template"].get<std::string>(), place});
  }
  return sources;
}

absl::Status CheckPrompt(const ChatPrompt& prompt) {
  if (!prompt.messages.is_array() || prompt.messages.empty()) {
    return absl::InvalidArgumentError("chat.messages: at least one message is needed");
  }
  for (size_t i = 0; i < prompt.messages.size(); ++i) {
    const Json& message = prompt.messages[i];
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string() ||
        message["role"].get_ref<const std::string&>().empty()) {
      return absl::InvalidArgumentError(fmt::format("chat.messages[{}].role: is missing", i));
    }
  }
  if (!prompt.tools.is_null() && !prompt.tools.is_array()) {
    return absl::InvalidArgumentError("chat.tools: must be an array");
  }
  if (!prompt.documents.is_null() && !prompt.documents.is_array()) {
    return absl::InvalidArgumentError("chat.documents: must be an array");
  }
  if (!prompt.variables.is_null() && !prompt.variables.is_object()) {
    return absl::InvalidArgumentError("chat.variables: must be an object");
  }
  for (const char* name : {"messages", "tools", "documents", "add_generation_prompt"}) {
    if (prompt.variables.contains(name)) {
      return absl::InvalidArgumentError(
          fmt::format("chat.variables.{}: it has a field of its own", name));
    }
  }
  if (prompt.add_generation_prompt && prompt.continue_final_message) {
    return absl::InvalidArgumentError(
        "chat.continue_final_message: excludes chat.add_generation_prompt");
  }
  return absl::OkStatus();
}

// The text of the last message, which the model goes on with; of several parts the last text.
absl::StatusOr<std::string> FinalText(const Json& messages) {
  const Json& last = messages.back();
  const Json* content = last.contains("content") ? &last["content"] : nullptr;
  if (content != nullptr && content->is_array()) {
    const auto part = std::find_if(content->rbegin(), content->rend(), [](const Json& candidate) {
      return candidate.is_object() && candidate.contains("text") && candidate["text"].is_string();
    });
    content = part == content->rend() ? nullptr : &(*part)["text"];
  }
  if (content == nullptr || !content->is_string()) {
    return absl::InvalidArgumentError(
        "chat.continue_final_message: the last message has no text to go on with");
  }
  return content->get<std::string>();
}

// Cuts the rendered text where the last message's own text ends.
absl::StatusOr<std::string> CutAfterFinal(std::string rendered, const Json& messages) {
  ASSIGN_OR_RETURN(const std::string text, FinalText(messages));
  const std::string_view stripped = jinja::Strip(text);
  const size_t at = rendered.rfind(stripped);
  if (stripped.empty() || at == std::string::npos) {
    return absl::InvalidArgumentError(
        "chat.continue_final_message: the template does not show the last message as it is");
  }
  const std::string_view from_left = jinja::StripLeft(text);
  const bool keeps_end = std::string_view(rendered).substr(at, from_left.size()) == from_left;
  rendered.resize(at + (keeps_end ? from_left.size() : stripped.size()));
  return rendered;
}

}  // namespace

absl::StatusOr<std::optional<ChatTemplate>> ChatTemplate::Load(const std::string& model_dir) {
  const std::string config_path = model_dir + "/tokenizer_config.json";
  ASSIGN_OR_RETURN(const nlohmann::json config, ReadOptionalObject(config_path));
  ASSIGN_OR_RETURN(const nlohmann::json tokens_map,
                   ReadOptionalObject(model_dir + "/special_tokens_map.json"));
  const std::string jinja_path = model_dir + "/chat_template.jinja";
  std::vector<Source> sources;
  if (std::filesystem::exists(jinja_path)) {
    ASSIGN_OR_RETURN(std::string text, ReadFile(jinja_path, kMaxFileBytes));
    sources.push_back({std::string(kDefaultName), std::move(text), jinja_path});
  } else {
    ASSIGN_OR_RETURN(sources, SourcesInConfig(config, config_path));
  }
  if (sources.empty()) {
    return std::optional<ChatTemplate>();
  }
  ChatTemplate loaded;
  CollectSpecialTokens(tokens_map, &loaded.special_tokens_);
  CollectSpecialTokens(config, &loaded.special_tokens_);
  for (const Source& source : sources) {
    absl::StatusOr<jinja::Template> parsed = jinja::Template::Parse(source.text);
    if (!parsed.ok()) {
      return Prefixed(source.where, parsed.status());
    }
    loaded.templates_.push_back({source.name, *std::move(parsed)});
  }
  return std::optional(std::move(loaded));
}

absl::StatusOr<const jinja::Template*> ChatTemplate::Choose(const ChatPrompt& prompt) const {
  const Named* chosen = templates_.size() == 1 ? &templates_.front() : nullptr;
  for (const std::string_view name : {kDefaultName, kToolsName}) {  // the later the better
    if (name == kToolsName && prompt.tools.is_null()) {
      continue;
    }
    const auto found = std::find_if(templates_.begin(),
                                    templates_.end(),
                                    [name](const Named& named) { return named.name == name; });
    if (found != templates_.end()) {
      chosen = &*found;
    }
  }
  if (chosen == nullptr) {
    return absl::InvalidArgumentError("chat: the model has several templates and none is default");
  }
  return &chosen->parsed;
}

absl::StatusOr<std::string> ChatTemplate::Render(const ChatPrompt& prompt,
                                                 const jinja::RenderOptions& options) const {
  RETURN_IF_ERROR(CheckPrompt(prompt));
  ASSIGN_OR_RETURN(const jinja::Template* const chosen, Choose(prompt));
  Json context = special_tokens_;
  if (prompt.variables.is_object()) {
    context.update(prompt.variables);
  }
  context["messages"] = prompt.messages;
  context["tools"] = prompt.tools;
  context["documents"] = prompt.documents;
  context["add_generation_prompt"] = prompt.add_generation_prompt;
  absl::StatusOr<std::string> text = chosen->Render(context, options);
  if (!text.ok()) {
    return Prefixed("chat: the template", text.status());
  }
  return prompt.continue_final_message ? CutAfterFinal(*std::move(text), prompt.messages)
                                       : std::move(text);
}

}  // namespace ringserve
