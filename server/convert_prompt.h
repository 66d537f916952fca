// The prompt of a request of the wire, whichever, to token ids.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "engine/base/status.h"
#include "engine/text/tokenizer.h"
#include "server/convert.h"
#include "server/convert_chat.h"
#include "server/served_model.h"

namespace ringserve {

// INVALID_ARGUMENT naming `field`.
inline absl::StatusOr<std::vector<int32_t>> EncodeText(const std::string& text,
                                                       const EncodeOptions& options,
                                                       const std::string& field,
                                                       const ServedModel& model) {
  RETURN_IF_ERROR(model.CheckTokenizer(field));
  auto ids = model.tokenizer->Encode(text, options);
  if (!ids.ok()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {}", field, std::string(ids.status().message())));
  }
  return ids;
}

// What the prompt is and what it was cut from.
struct ConvertedPrompt {
  std::vector<int32_t> token_ids;
  std::string text;  // none of token_ids
  EncodeOptions encode;
};

// Of a Request with `oneof prompt {text, token_ids, chat}` and `tokenize`.
template <typename Request>
absl::StatusOr<ConvertedPrompt> ConvertPrompt(const Request& in, const ServedModel& model) {
  const auto invalid = [](const char* message) { return absl::InvalidArgumentError(message); };
  ConvertedPrompt out;
  switch (in.prompt_case()) {
    case Request::kText: {
      out.text = in.text();
      out.encode = ToEncodeOptions(in.tokenize());
      ASSIGN_OR_RETURN(out.token_ids, EncodeText(out.text, out.encode, "text", model));
      if (out.token_ids.empty()) {
        return invalid("text: empty, and this model's tokenizer adds nothing to it");
      }
      return out;
    }
    case Request::kTokenIds:
      if (in.has_tokenize()) {
        return invalid("tokenize: set beside token_ids, and there is no text to tokenize");
      }
      if (in.token_ids().ids().empty()) {
        return invalid("token_ids.ids: empty; at least one token is needed");
      }
      out.token_ids.assign(in.token_ids().ids().begin(), in.token_ids().ids().end());
      return out;
    case Request::kChat: {
      if (in.has_tokenize()) {
        return invalid("tokenize: set beside chat, whose text is cut as a whole");
      }
      ASSIGN_OR_RETURN(RenderedChat rendered, RenderChat(in.chat(), model));
      if (rendered.token_ids.empty()) {
        return invalid("chat: the template makes no text of it");
      }
      out.token_ids = std::move(rendered.token_ids);
      out.text = std::move(rendered.text);
      out.encode.add_special_tokens = false;  // the template has written them
      return out;
    }
    case Request::PROMPT_NOT_SET:
      break;
  }
  return invalid("prompt: not set; set text, token_ids or chat");
}

}  // namespace ringserve
