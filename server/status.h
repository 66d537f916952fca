// absl::Status to grpc::Status.
#pragma once

#include <grpcpp/support/status.h>

#include "engine/base/status.h"

namespace ringserve {

// Same code, and the message cut to a length that every client's header limit takes.
// RESOURCE_EXHAUSTED and UNAVAILABLE carry RetryInfo in grpc-status-details-bin.
grpc::Status ToGrpcStatus(const absl::Status& status);
// Code and message, as a client needs them.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace ringserve
