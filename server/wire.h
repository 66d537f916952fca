// Messages to bytes and back. The services take raw bytes, because gRPC 1.51 answers what does not
// parse with a bare UNIMPLEMENTED.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include "engine/base/status.h"

namespace ringserve {

// INVALID_ARGUMENT naming the message, and the field where it is text that is not UTF-8.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message);

// In one slice.
grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

}  // namespace ringserve
