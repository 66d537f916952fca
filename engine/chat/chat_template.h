// The chat template of a model folder: from a conversation to the text that the model reads.
// Rendered as transformers' apply_chat_template renders it; the text is then tokenized without
// added special tokens, because the template writes them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/base/status.h"
#include "engine/chat/jinja_template.h"

namespace ringserve {

// NOLINTNEXTLINE(bugprone-exception-escape): moving JSON throws nothing.
struct ChatPrompt {
  // Objects with a "role"; the rest is what the template reads ("content", "tool_calls", ...). At
  // least one.
  nlohmann::ordered_json messages;
  nlohmann::ordered_json tools;      // an array of JSON schemas of functions, or null
  nlohmann::ordered_json documents;  // an array of objects, or null
  nlohmann::ordered_json
      variables;  // an object of further variables (enable_thinking, ...), or null
  // Ends with what begins the model's answer.
  bool add_generation_prompt = true;
  // Ends inside the last message, which the model goes on with. Excludes the above.
  bool continue_final_message = false;
};

// Immutable: any thread.
class ChatTemplate {
 public:
  // Of chat_template.jinja, else of tokenizer_config.json; null if the folder has none.
  // INVALID_ARGUMENT names file, key and line of a template that cannot be read.
  static absl::StatusOr<std::optional<ChatTemplate>> Load(const std::string& model_dir);

  // INVALID_ARGUMENT begins with "chat": what is wrong with the prompt, or what the template says
  // of it. RESOURCE_EXHAUSTED if rendering takes more than `options.limits`.
  absl::StatusOr<std::string> Render(const ChatPrompt& prompt,
                                     const jinja::RenderOptions& options) const;

 private:
  struct Named {
    std::string name;  // "default", "tool_use", ...
    jinja::Template parsed;
  };

  ChatTemplate() = default;
  absl::StatusOr<const jinja::Template*> Choose(const ChatPrompt& prompt) const;

  std::vector<Named> templates_;
  nlohmann::ordered_json special_tokens_ = nlohmann::ordered_json::object();
};

}  // namespace ringserve
