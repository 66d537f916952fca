// Score and Embed calls.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/generate_call.h"

namespace ringserve {

// Each checks, converts and submits; a request that cannot run ends with its status. The response
// is filled in before the call ends.
grpc::ServerUnaryReactor* BeginScore(grpc::CallbackServerContext& context,
                                     const grpc::ByteBuffer& request,
                                     grpc::ByteBuffer& response,
                                     const CallServices& services);
grpc::ServerUnaryReactor* BeginEmbed(grpc::CallbackServerContext& context,
                                     const grpc::ByteBuffer& request,
                                     grpc::ByteBuffer& response,
                                     const CallServices& services);

}  // namespace ringserve
