#include "server/status.h"

#include <cstdint>
#include <string>

#include "ringserve/v1/error_details.pb.h"

namespace ringserve {
namespace {

// Percent-encoded and in base64 both, this stays under the 8 KiB of metadata that clients accept.
constexpr size_t kMaxMessageBytes = 1024;

std::string Shorten(std::string message) {
  if (message.size() <= kMaxMessageBytes) {
    return message;
  }
  size_t end = kMaxMessageBytes;
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) {
    --end;  // not inside a character
  }
  return message.substr(0, end) + "...";
}

// How long a place in the queue takes to come free, and a server to start or be replaced, about.
int64_t RetryDelayMs(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kResourceExhausted:
      return 500;
    case absl::StatusCode::kUnavailable:
      return 2000;
    default:
      return 0;
  }
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) {
    return grpc::Status::OK;
  }
  const auto code = static_cast<grpc::StatusCode>(status.code());  // the numbers are the same
  const std::string message = Shorten(std::string(status.message()));
  const int64_t delay_ms = RetryDelayMs(status.code());
  if (delay_ms == 0) {
    return grpc::Status(code, message);
  }
  v1::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(delay_ms / 1000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay_ms % 1000 * 1'000'000));
  v1::StatusDetails details;
  details.set_code(static_cast<int32_t>(code));
  details.set_message(message);
  google::protobuf::Any& any = *details.add_details();
  any.set_type_url("type.googleapis.com/google.rpc.RetryInfo");
  any.set_value(retry.SerializeAsString());
  return grpc::Status(code, message, details.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace ringserve
