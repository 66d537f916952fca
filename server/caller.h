// Who calls, and for how long. What a caller may see (sessions, kept streams, shared prefixes,
// accounts) follows from this alone, never from a request's fields.
#pragma once

#include <string>

#include <absl/time/time.h>
#include <grpcpp/server_context.h>

#include "engine/base/status.h"
#include "engine/request.h"
#include "engine/session_info.h"

namespace ringserve {

// The caller's identity, at most kMaxOwnerLength; "" is the one anonymous caller. With an
// `identity_header` that is what the header says: it is to be set, and what clients put there
// removed, by the proxy in front, the only one who can reach the server. UNAUTHENTICATED if the
// header is there twice, empty or too long.
absl::StatusOr<std::string> CallerIdentity(const grpc::ServerContextBase& context,
                                           const std::string& identity_header);

// When the call is to have ended.
absl::Time DeadlineOf(const grpc::CallbackServerContext& context);
// The call's deadline, and an id that no other call of this process has.
CallOptions OptionsOf(const grpc::CallbackServerContext& context);

}  // namespace ringserve
