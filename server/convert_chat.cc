#include "server/convert_chat.h"

#include <utility>

#include <absl/time/clock.h>
#include <fmt/format.h>
#include <google/protobuf/repeated_ptr_field.h>

#include "engine/base/json_reader.h"

namespace ringserve {
namespace {

using Json = nlohmann::ordered_json;

absl::Status Invalid(const std::string& field, const std::string& what) {
  return absl::InvalidArgumentError(fmt::format("{}: {}", field, what));
}

absl::StatusOr<Json> ParseObject(const std::string& text, const std::string& field) {
  ASSIGN_OR_RETURN(Json json, ParseOrderedJson(text, field));
  if (!json.is_object()) {
    return Invalid(field, fmt::format("a JSON {}, not an object", json.type_name()));
  }
  return json;
}

absl::StatusOr<Json> ConvertToolCall(const v1::ToolCall& in, const std::string& field) {
  if (in.name().empty()) {
    return Invalid(field + ".name", "not set");
  }
  Json arguments = Json::object();
  if (!in.arguments().empty()) {
    ASSIGN_OR_RETURN(arguments, ParseObject(in.arguments(), field + ".arguments"));
  }
  Json out = Json::object();
  if (!in.id().empty()) {
    out["id"] = in.id();
  }
  out["type"] = "function";
  out["function"] = {{"name", in.name()}, {"arguments", std::move(arguments)}};
  return out;
}

absl::StatusOr<Json> ConvertMessage(const v1::ChatMessage& in, const std::string& field) {
  if (!in.json().empty()) {
    const bool alone = in.role().empty() && !in.has_content() && in.tool_calls().empty() &&
                       in.tool_call_id().empty() && in.name().empty();
    if (!alone) {
      return Invalid(field + ".json", "excludes the other fields of the message");
    }
    return ParseObject(in.json(), field + ".json");
  }
  if (in.role().empty()) {
    return Invalid(field + ".role", "not set");
  }
  Json out = {{"role", in.role()}};
  if (in.has_content()) {
    out["content"] = in.content();
  }
  for (int i = 0; i < in.tool_calls_size(); ++i) {
    ASSIGN_OR_RETURN(Json call,
                     ConvertToolCall(in.tool_calls(i), fmt::format("{}.tool_calls[{}]", field, i)));
    out["tool_calls"].push_back(std::move(call));
  }
  if (!in.tool_call_id().empty()) {
    out["tool_call_id"] = in.tool_call_id();
  }
  if (!in.name().empty()) {
    out["name"] = in.name();
  }
  return out;
}

// Null if there is none.
absl::StatusOr<Json> ConvertObjects(const google::protobuf::RepeatedPtrField<std::string>& in,
                                    const std::string& field) {
  Json out;
  for (int i = 0; i < in.size(); ++i) {
    ASSIGN_OR_RETURN(Json object, ParseObject(in.Get(i), fmt::format("{}[{}]", field, i)));
    out.push_back(std::move(object));
  }
  return out;
}

// The range of google.protobuf.Timestamp: the years 1 to 9999.
absl::StatusOr<absl::Time> ConvertNow(const google::protobuf::Timestamp& in) {
  constexpr int64_t kFirst = -62'135'596'800;
  constexpr int64_t kLast = 253'402'300'799;
  if (in.seconds() < kFirst || in.seconds() > kLast || in.nanos() < 0 ||
      in.nanos() >= 1'000'000'000) {
    return Invalid(
        "chat.now",
        fmt::format("{} s and {} ns are not in the years 1 to 9999", in.seconds(), in.nanos()));
  }
  return absl::FromUnixSeconds(in.seconds()) + absl::Nanoseconds(in.nanos());
}

}  // namespace

absl::StatusOr<ChatPrompt> ConvertChat(const v1::ChatPrompt& in) {
  ChatPrompt out;
  out.messages = Json::array();
  for (int i = 0; i < in.messages_size(); ++i) {
    ASSIGN_OR_RETURN(Json message,
                     ConvertMessage(in.messages(i), fmt::format("chat.messages[{}]", i)));
    out.messages.push_back(std::move(message));
  }
  ASSIGN_OR_RETURN(out.tools, ConvertObjects(in.tools(), "chat.tools"));
  ASSIGN_OR_RETURN(out.documents, ConvertObjects(in.documents(), "chat.documents"));
  if (!in.variables().empty()) {
    ASSIGN_OR_RETURN(out.variables, ParseObject(in.variables(), "chat.variables"));
  }
  out.continue_final_message = in.continue_final_message();
  out.add_generation_prompt =
      in.has_add_generation_prompt() ? in.add_generation_prompt() : !in.continue_final_message();
  return out;
}

absl::StatusOr<RenderedChat> RenderChat(const v1::ChatPrompt& in, const ServedModel& model) {
  RETURN_IF_ERROR(model.CheckTokenizer("chat"));
  if (!model.chat_template.has_value()) {
    return absl::FailedPreconditionError(
        fmt::format("chat: the folder of model \"{}\" has no chat template; send text or token_ids",
                    model.name()));
  }
  ASSIGN_OR_RETURN(const ChatPrompt prompt, ConvertChat(in));
  jinja::RenderOptions options;
  options.now = absl::Now();
  if (in.has_now()) {
    ASSIGN_OR_RETURN(options.now, ConvertNow(in.now()));
  }
  options.zone = absl::UTCTimeZone();
  RenderedChat out;
  ASSIGN_OR_RETURN(out.text, model.chat_template->Render(prompt, options));
  auto ids = model.tokenizer->Encode(out.text, {.add_special_tokens = false});
  if (!ids.ok()) {
    return Invalid("chat", std::string(ids.status().message()));
  }
  out.token_ids = *std::move(ids);
  return out;
}

}  // namespace ringserve
