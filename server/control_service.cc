#include <memory>
#include <string>

#include <fmt/format.h>

#include "ringserve/v1/control.grpc.pb.h"
#include "server/answer.h"
#include "server/caller.h"
#include "server/convert.h"
#include "server/services.h"
#include "server/stream_registry.h"

namespace ringserve {
namespace {

// What a method's raw form is called in generated code, from the inside out.
using RawGetLoad = v1::Control::WithRawCallbackMethod_GetLoad<v1::Control::Service>;
using RawGetMemoryPlan = v1::Control::WithRawCallbackMethod_GetMemoryPlan<RawGetLoad>;
using RawWatchLoad = v1::Control::WithRawCallbackMethod_WatchLoad<RawGetMemoryPlan>;
using RawAbort = v1::Control::WithRawCallbackMethod_Abort<RawWatchLoad>;
using RawGetUsage = v1::Control::WithRawCallbackMethod_GetUsage<RawAbort>;

class ControlService final : public RawGetUsage {
 public:
  explicit ControlService(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* call,
                                    const grpc::ByteBuffer* request,
                                    grpc::ByteBuffer* response) override {
    return Answer<v1::GetLoadRequest>(
        call,
        request,
        response,
        [this](const v1::GetLoadRequest& in) -> absl::StatusOr<v1::GetLoadResponse> {
          return TellLoad(in.model());
        });
  }

  grpc::ServerUnaryReactor* GetMemoryPlan(grpc::CallbackServerContext* call,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response) override {
    return Answer<v1::GetMemoryPlanRequest>(
        call,
        request,
        response,
        [this](const v1::GetMemoryPlanRequest& in) -> absl::StatusOr<v1::GetMemoryPlanResponse> {
          ASSIGN_OR_RETURN(const ServedModel* model, context_.calls.models.Find(in.model()));
          return MemoryPlanToProto(*model);
        });
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* WatchLoad(grpc::CallbackServerContext* /*call*/,
                                                        const grpc::ByteBuffer* request) override {
    v1::WatchLoadRequest in;
    const auto check = [&]() -> absl::StatusOr<absl::Duration> {
      RETURN_IF_ERROR(ParseMessage(*request, in));
      RETURN_IF_ERROR(RefuseUnknownFields(in));
      RETURN_IF_ERROR(TellLoad(in.model()).status());
      if (!in.has_interval()) {
        return absl::Seconds(1);
      }
      return ConvertDuration(
          in.interval(), "interval", absl::Milliseconds(100), absl::Hours(1), "[100 ms, 1 h]");
    };
    const absl::StatusOr<absl::Duration> interval = check();
    return context_.watchers.Start(interval,
                                   [this, model = in.model()] { return TellLoad(model); });
  }

  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* call,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override {
    return Answer<v1::AbortRequest>(
        call,
        request,
        response,
        [this, call](const v1::AbortRequest& in) -> absl::StatusOr<v1::AbortResponse> {
          ASSIGN_OR_RETURN(const std::string owner,
                           CallerIdentity(*call, context_.calls.identity_header));
          constexpr int kMaxIds = 1024;
          if (in.request_ids_size() < 1 || in.request_ids_size() > kMaxIds) {
            return absl::InvalidArgumentError(
                fmt::format("request_ids: {} ids, not in [1, {}]", in.request_ids_size(), kMaxIds));
          }
          v1::AbortResponse out;
          for (const std::string& id : in.request_ids()) {
            RETURN_IF_ERROR(CheckRequestId(id));
            if (context_.calls.registry.Abort(owner, id)) {
              out.add_request_ids(id);
            }
          }
          return out;
        });
  }

  grpc::ServerUnaryReactor* GetUsage(grpc::CallbackServerContext* call,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    return Answer<v1::GetUsageRequest>(
        call,
        request,
        response,
        [this, call](const v1::GetUsageRequest&) -> absl::StatusOr<v1::GetUsageResponse> {
          ASSIGN_OR_RETURN(const std::string owner,
                           CallerIdentity(*call, context_.calls.identity_header));
          return ToProto(context_.calls.accounts.Get(owner));
        });
  }

 private:
  // Of one model, or of all if `name` is empty.
  absl::StatusOr<v1::GetLoadResponse> TellLoad(const std::string& name) const {
    const ServedModel* only = nullptr;
    if (!name.empty()) {
      ASSIGN_OR_RETURN(only, context_.calls.models.Find(name));
    }
    v1::GetLoadResponse out;
    for (const auto& model : context_.calls.models.models()) {
      if (only == nullptr || only == model.get()) {
        *out.add_models() = ToProto(model->engine->load(), model->name());
      }
    }
    const ConnectionCounts connections = context_.count_connections();
    out.set_calls(context_.calls.gate.open.load());
    out.set_max_calls(context_.calls.gate.max_calls);
    out.set_connections(connections.open);
    out.set_max_connections(connections.max);
    out.set_refused_connections(connections.refused);
    out.set_kept_streams(context_.calls.registry.num_kept());
    out.set_max_kept_streams(context_.calls.registry.options().max_kept);
    return out;
  }

  const ServiceContext& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeControlService(const ServiceContext& context) {
  return std::make_unique<ControlService>(context);
}

}  // namespace ringserve
