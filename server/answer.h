// Unary calls on raw bytes.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "engine/base/status.h"
#include "server/convert.h"
#include "server/status.h"
#include "server/wire.h"

namespace ringserve {

// Parses, answers with what handle(request) -> absl::StatusOr<Response> says, and serializes.
template <typename Request, typename Handle>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* bytes,
                                 grpc::ByteBuffer* answer,
                                 const Handle& handle) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto run = [&]() -> absl::Status {
    Request request;
    RETURN_IF_ERROR(ParseMessage(*bytes, request));
    RETURN_IF_ERROR(RefuseUnknownFields(request));
    ASSIGN_OR_RETURN(const auto response, handle(request));
    *answer = SerializeMessage(response);
    return absl::OkStatus();
  };
  reactor->Finish(ToGrpcStatus(run()));
  return reactor;
}

}  // namespace ringserve
