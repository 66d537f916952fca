#include <memory>

#include "ringserve/v1/sessions.grpc.pb.h"
#include "server/services.h"

namespace ringserve {
namespace {

// This server's engine keeps no sessions yet: every call is answered UNIMPLEMENTED, by the
// generated class.
class SessionsService final : public v1::Sessions::CallbackService {};

}  // namespace

std::unique_ptr<grpc::Service> MakeSessionsService(const ServiceContext& /*context*/) {
  return std::make_unique<SessionsService>();
}

}  // namespace ringserve
