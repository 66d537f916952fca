// Messages to bytes and back. The services take raw bytes, because gRPC 1.51 answers what does not
// parse with a bare UNIMPLEMENTED.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/impl/serialization_traits.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>
#include <grpcpp/support/status.h>

#include "engine/base/status.h"

namespace ringserve {

// INVALID_ARGUMENT naming the message, and the field where it is text that is not UTF-8.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message);

grpc::Slice SerializeToSlice(const google::protobuf::Message& message);
// In one slice.
grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

// The bytes of a message that goes out once: writing takes them, where of a ByteBuffer gRPC makes a
// copy for itself.
class OutgoingBytes {
 public:
  // Takes the place of what was there.
  void Set(const grpc::Slice& bytes) {
    grpc::ByteBuffer fresh(&bytes, 1);
    bytes_.Swap(&fresh);
  }

  void MoveTo(grpc::ByteBuffer& out) const { out.Swap(&bytes_); }

 private:
  mutable grpc::ByteBuffer bytes_;  // gRPC hands its serializer a const message
};

}  // namespace ringserve

template <>
class grpc::SerializationTraits<ringserve::OutgoingBytes> {
 public:
  static Status Serialize(const ringserve::OutgoingBytes& bytes, ByteBuffer* out, bool* own) {
    bytes.MoveTo(*out);
    *own = true;
    return Status::OK;
  }
};
