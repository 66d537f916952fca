#include "server/wire.h"

#include <cstdint>
#include <string>

#include <fmt/format.h>
#include <google/protobuf/stubs/common.h>
#include <spdlog/spdlog.h>

namespace ringserve {
namespace {

// Protobuf says which string is not UTF-8 to its log alone; this takes it from there.
#if GOOGLE_PROTOBUF_VERSION < 4022000
thread_local std::string* parse_complaint = nullptr;

void Hear(google::protobuf::LogLevel /*level*/,
          const char* /*file*/,
          int /*line*/,
          const std::string& message) {
  if (parse_complaint != nullptr) {
    *parse_complaint = message;
  } else {
    spdlog::warn("protobuf=\"{}\"", message);
  }
}

// Parses, and says what protobuf had to complain of.
bool Parse(const grpc::Slice& bytes, google::protobuf::Message& message, std::string& complaint) {
  static auto* const previous_handler = google::protobuf::SetLogHandler(&Hear);
  static_cast<void>(previous_handler);
  parse_complaint = &complaint;
  const bool parsed = message.ParseFromArray(bytes.begin(), static_cast<int>(bytes.size()));
  parse_complaint = nullptr;
  return parsed;
}
#else
bool Parse(const grpc::Slice& bytes, google::protobuf::Message& message, std::string&) {
  return message.ParseFromArray(bytes.begin(), static_cast<int>(bytes.size()));
}
#endif

// "String field 'NAME' contains invalid UTF-8 data ..." in our words; "" for anything else.
std::string TextError(const std::string& complaint) {
  if (complaint.find("invalid UTF-8") == std::string::npos) {
    return "";
  }
  const size_t begin = complaint.find('\'');
  const size_t end = complaint.find('\'', begin + 1);
  if (begin == std::string::npos || end == std::string::npos) {
    return "a string field is not UTF-8";
  }
  return fmt::format("{}: not UTF-8", complaint.substr(begin + 1, end - begin - 1));
}

}  // namespace

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message) {
  grpc::Slice slice;
  if (!bytes.TrySingleSlice(&slice).ok() && !bytes.DumpToSingleSlice(&slice).ok()) {
    return absl::InternalError("a request's bytes could not be read");
  }
  std::string complaint;
  if (Parse(slice, message, complaint)) {
    return absl::OkStatus();
  }
  if (const std::string text_error = TextError(complaint); !text_error.empty()) {
    return absl::InvalidArgumentError(text_error);
  }
  return absl::InvalidArgumentError(
      fmt::format("the request's {} bytes are not a {}", slice.size(), message.GetTypeName()));
}

grpc::Slice SerializeToSlice(const google::protobuf::Message& message) {
  grpc::Slice slice(message.ByteSizeLong());
  // A fresh slice is nobody else's yet; gRPC's own serializer writes into it the same way.
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return slice;
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  const grpc::Slice slice = SerializeToSlice(message);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace ringserve
