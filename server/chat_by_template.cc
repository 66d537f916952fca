// The part of chat.h that converses by the model's chat template.
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/chat.h"
#include "server/status.h"

namespace ringserve {
namespace {

// How much of what the session holds begins the conversation; all but the last token at most, which
// is read for what follows it.
int64_t CommonLength(const std::vector<int32_t>& held, const std::vector<int32_t>& wanted) {
  const size_t most = std::min(held.size(), wanted.size() - 1);
  const auto differs =
      std::mismatch(held.begin(), held.begin() + static_cast<std::ptrdiff_t>(most), wanted.begin());
  return differs.first - held.begin();
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> Chat::Render(const std::vector<v1::ChatMessage>& messages) {
  grpc::ClientContext context;
  v1::RenderChatRequest request;
  request.set_model(options_.request.model());
  v1::ChatPrompt& chat = *request.mutable_chat();
  chat.mutable_messages()->Add(messages.begin(), messages.end());
  chat.set_variables(options_.variables);
  *chat.mutable_now() = opened_;
  v1::RenderChatResponse response;
  RETURN_IF_ERROR(FromGrpcStatus(tokenizer_->RenderChat(&context, request, &response)));
  if (response.token_ids().empty()) {
    return absl::InvalidArgumentError("the template makes no text of the conversation");
  }
  return std::vector<int32_t>(response.token_ids().begin(), response.token_ids().end());
}

absl::Status Chat::TurnByTemplate(const std::string& line) {
  Branch& conversation = branch();
  const size_t num_messages = conversation.messages.size();
  v1::ChatMessage& question = conversation.messages.emplace_back();
  question.set_role("user");
  question.set_content(line);
  absl::StatusOr<std::vector<int32_t>> wanted = Render(conversation.messages);
  if (!wanted.ok()) {
    conversation.messages.resize(num_messages);
    return wanted.status();
  }
  int64_t kept = CommonLength(conversation.held, *wanted);
  if (kept < conversation.position) {
    absl::Status status = RollBackTo(kept);
    if (absl::IsInvalidArgument(status)) {  // the window has moved over what was to be kept
      status = StartAgain();
      kept = 0;
    }
    if (!status.ok()) {
      conversation.messages.resize(num_messages);
      return status;
    }
  }
  v1::GenerateRequest request = options_.request;
  request.mutable_token_ids()->mutable_ids()->Add(wanted->begin() + kept, wanted->end());
  Answer answer;
  absl::Status status = Run(std::move(request), num_messages, answer);
  conversation.held = *std::move(wanted);
  conversation.held.insert(
      conversation.held.end(), answer.token_ids.begin(), answer.token_ids.end());
  // An answer that was ended early was kept as far as it was sent, which may be more or less than
  // what came.
  conversation.held.resize(
      std::min(conversation.held.size(), static_cast<size_t>(conversation.position)));
  if (conversation.position <= kept) {
    conversation.messages.resize(num_messages);
    return status;
  }
  v1::ChatMessage& said = conversation.messages.emplace_back();
  said.set_role("assistant");
  said.set_content(answer.text);
  return status;
}

absl::Status Chat::TakeBackTurn() {
  Branch& conversation = branch();
  const TurnStart start = conversation.turn_starts.back();
  conversation.turn_starts.pop_back();
  conversation.messages.resize(start.num_messages);
  const absl::Status status = RollBackTo(std::min(start.position, conversation.position));
  if (absl::IsInvalidArgument(status)) {
    return absl::OkStatus();  // the window has moved over it: the next turn starts again
  }
  RETURN_IF_ERROR(status);
  conversation.held.resize(
      std::min(conversation.held.size(), static_cast<size_t>(conversation.position)));
  fmt::print(out_, "the text ends at {}\n", conversation.position);
  return absl::OkStatus();
}

absl::Status Chat::StartAgain() {
  ASSIGN_OR_RETURN(const v1::Session session, Create());
  grpc::ClientContext context;
  v1::CloseSessionRequest request;
  request.set_model(options_.request.model());
  request.set_id(std::exchange(branch().session_id, session.id()));
  branch().position = 0;
  for (TurnStart& start : branch().turn_starts) {
    start.position = 0;
  }
  v1::Session closed;
  return FromGrpcStatus(sessions_->Close(&context, request, &closed));
}

}  // namespace ringserve
