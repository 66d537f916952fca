#include "server/chat_file.h"

#include <string>

#include <absl/time/time.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"

namespace ringserve {
namespace {

using Json = nlohmann::ordered_json;

class ChatFile {
 public:
  explicit ChatFile(std::string_view what) : what_(what) {}

  absl::StatusOr<v1::ChatPrompt> Read(const Json& json) {
    if (json.is_array()) {
      RETURN_IF_ERROR(ReadMessages(json));
      return std::move(out_);
    }
    if (!json.is_object() || !json.contains("messages")) {
      return absl::InvalidArgumentError(
          fmt::format("{}: neither an array of messages nor an object with \"messages\"", what_));
    }
    for (const auto& [key, value] : json.items()) {
      RETURN_IF_ERROR(ReadKey(key, value));
    }
    return std::move(out_);
  }

 private:
  absl::Status Error(std::string_view key, std::string_view message) const {
    return absl::InvalidArgumentError(fmt::format("{}: {}: {}", what_, key, message));
  }

  absl::Status ReadKey(const std::string& key, const Json& value) {
    if (key == "messages") {
      return ReadMessages(value);
    }
    if (key == "tools") {
      return ReadObjects(key, value, *out_.mutable_tools());
    }
    if (key == "documents") {
      return ReadObjects(key, value, *out_.mutable_documents());
    }
    if (key == "variables") {
      out_.set_variables(value.dump());  // the server's to check
      return absl::OkStatus();
    }
    if (key == "now") {
      return ReadNow(value);
    }
    if (key != "add_generation_prompt" && key != "continue_final_message") {
      return Error(key, "unknown key");
    }
    if (!value.is_boolean()) {
      return Error(key, "neither true nor false");
    }
    if (key == "add_generation_prompt") {
      out_.set_add_generation_prompt(value.get<bool>());
    } else {
      out_.set_continue_final_message(value.get<bool>());
    }
    return absl::OkStatus();
  }

  absl::Status ReadMessages(const Json& value) {
    if (!value.is_array()) {
      return Error("messages", "not an array");
    }
    for (const Json& message : value) {
      out_.add_messages()->set_json(message.dump());
    }
    return absl::OkStatus();
  }

  absl::Status ReadObjects(std::string_view key,
                           const Json& value,
                           google::protobuf::RepeatedPtrField<std::string>& to) const {
    if (!value.is_array()) {
      return Error(key, "not an array");
    }
    for (const Json& element : value) {
      *to.Add() = element.dump();
    }
    return absl::OkStatus();
  }

  absl::Status ReadNow(const Json& value) {
    absl::Time now;
    std::string error;
    if (!value.is_string() ||
        !absl::ParseTime(absl::RFC3339_full, value.get<std::string>(), &now, &error)) {
      return Error("now", "no date and time as 2025-07-31T15:30:05Z is");
    }
    out_.mutable_now()->set_seconds(absl::ToUnixSeconds(now));
    return absl::OkStatus();
  }

  const std::string what_;
  v1::ChatPrompt out_;
};

}  // namespace

absl::StatusOr<v1::ChatPrompt> ParseChatFile(std::string_view json, std::string_view what) {
  ASSIGN_OR_RETURN(const Json parsed, ParseOrderedJson(json, what));
  return ChatFile(what).Read(parsed);
}

}  // namespace ringserve
