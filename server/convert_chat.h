// Conversations of the wire to text and tokens, through the model's chat template.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/chat/chat_template.h"
#include "ringserve/v1/chat.pb.h"
#include "server/served_model.h"

namespace ringserve {

struct RenderedChat {
  std::string text;
  std::vector<int32_t> token_ids;
};

// INVALID_ARGUMENT names the field, "chat.messages[2].tool_calls[0].arguments" for example.
absl::StatusOr<ChatPrompt> ConvertChat(const v1::ChatPrompt& in);

// FAILED_PRECONDITION if the model has no tokenizer or no chat template; what ConvertChat,
// ChatTemplate::Render and Tokenizer::Encode answer.
absl::StatusOr<RenderedChat> RenderChat(const v1::ChatPrompt& in, const ServedModel& model);

}  // namespace ringserve
