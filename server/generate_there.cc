#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "ringserve/v1/inference.grpc.pb.h"
#include "server/generation.h"
#include "server/status.h"

namespace ringserve {

absl::Status GenerateThere(const std::string& target,
                           const v1::GenerateRequest& request,
                           absl::Time deadline,
                           const OnEvent& on_event) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, -1);
  const auto channel =
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
  const auto stub = v1::Inference::NewStub(channel);
  grpc::ClientContext context;
  if (deadline != absl::InfiniteFuture()) {
    context.set_deadline(absl::ToChronoTime(deadline));
  }
  const auto reader = stub->Generate(&context, request);
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    if (!on_event(event)) {
      context.TryCancel();
    }
  }
  return FromGrpcStatus(reader->Finish());
}

}  // namespace ringserve
