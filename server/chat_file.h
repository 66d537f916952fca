// A conversation as people write it down: JSON.
#pragma once

#include <string_view>

#include "engine/base/status.h"
#include "ringserve/v1/chat.pb.h"

namespace ringserve {

// An array of messages, or an object with "messages" and any of "tools", "documents", "variables",
// "add_generation_prompt", "continue_final_message" and "now" ("2025-07-31T15:30:05Z"). Messages
// are sent as they are. INVALID_ARGUMENT names `what` and the key.
absl::StatusOr<v1::ChatPrompt> ParseChatFile(std::string_view json, std::string_view what);

}  // namespace ringserve
