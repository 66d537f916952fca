#include "server/wire.h"

#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/common.h>

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
  }
}

// The field's name stands between the first two quotes.
std::string ParseComplaint(google::protobuf::Message& message, const std::string& bytes) {
  static const bool installed = [] {
    google::protobuf::SetLogHandler(&Hear);
    return true;
  }();
  static_cast<void>(installed);
  std::string complaint;
  parse_complaint = &complaint;
  static_cast<void>(message.ParseFromString(bytes));  // once more, now listening
  parse_complaint = nullptr;
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
#else
std::string ParseComplaint(google::protobuf::Message& /*message*/, const std::string& /*bytes*/) {
  return "";
}
#endif

}  // namespace

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message) {
  grpc::Slice slice;
  if (!bytes.TrySingleSlice(&slice).ok() && !bytes.DumpToSingleSlice(&slice).ok()) {
    return absl::InternalError("a request's bytes could not be read");
  }
  if (message.ParseFromArray(slice.begin(), static_cast<int>(slice.size()))) {
    return absl::OkStatus();
  }
  const std::string complaint = ParseComplaint(
      message, std::string(reinterpret_cast<const char*>(slice.begin()), slice.size()));
  if (!complaint.empty()) {
    return absl::InvalidArgumentError(complaint);
  }
  return absl::InvalidArgumentError(
      fmt::format("the request's {} bytes are not a {}", slice.size(), message.GetTypeName()));
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  grpc::Slice slice(message.ByteSizeLong());
  // A fresh slice is nobody else's yet; gRPC's own serializer writes into it the same way.
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace ringserve
