#include "server/services.h"

#include <utility>

#include <fmt/format.h>

#include "ringserve/v1/control.grpc.pb.h"
#include "ringserve/v1/inference.grpc.pb.h"
#include "ringserve/v1/models.grpc.pb.h"
#include "ringserve/v1/tokenizer.grpc.pb.h"
#include "server/convert.h"
#include "server/status.h"
#include "server/wire.h"

namespace ringserve {
namespace {

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

// Registered as the generated classes register a method whose messages are bytes, but with a
// message of our own going out.
class InferenceService final : public v1::Inference::Service {
 public:
  explicit InferenceService(const ServiceContext& context) : context_(context) {
    constexpr int kGenerate = 0;  // the only method
    MarkMethodRawCallback(
        kGenerate,
        new grpc::internal::CallbackServerStreamingHandler<grpc::ByteBuffer, OutgoingBytes>(
            [this](grpc::CallbackServerContext* call, const grpc::ByteBuffer* request) {
              return GenerateCall::Start(*call,
                                         *request,
                                         context_.models,
                                         context_.pump,
                                         context_.gate,
                                         context_.find_connection(call->peer()));
            }));
  }

 private:
  const ServiceContext& context_;
};

class TokenizerService final
    : public v1::Tokenizer::WithRawCallbackMethod_Tokenize<
          v1::Tokenizer::WithRawCallbackMethod_Detokenize<v1::Tokenizer::Service>> {
 public:
  explicit TokenizerService(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* call,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    return Answer<v1::TokenizeRequest>(
        call,
        request,
        response,
        [this](const v1::TokenizeRequest& in) -> absl::StatusOr<v1::TokenizeResponse> {
          ASSIGN_OR_RETURN(const ServedModel* model, context_.models.Find(in.model()));
          ASSIGN_OR_RETURN(const auto ids,
                           model->tokenizer->Encode(in.text(), ToEncodeOptions(in.options())));
          v1::TokenizeResponse out;
          out.mutable_token_ids()->Assign(ids.begin(), ids.end());
          for (const int32_t id : ids) {
            out.add_token_bytes(std::string(model->tokenizer->TokenBytes(id, true)));
          }
          return out;
        });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* call,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override {
    return Answer<v1::DetokenizeRequest>(
        call,
        request,
        response,
        [this](const v1::DetokenizeRequest& in) -> absl::StatusOr<v1::DetokenizeResponse> {
          ASSIGN_OR_RETURN(const ServedModel* model, context_.models.Find(in.model()));
          const std::span<const int32_t> ids(in.token_ids().data(), in.token_ids().size());
          v1::DetokenizeResponse out;
          ASSIGN_OR_RETURN(*out.mutable_text(),
                           model->tokenizer->Decode(ids, !in.include_special_tokens()));
          return out;
        });
  }

 private:
  const ServiceContext& context_;
};

class ModelsService final : public v1::Models::WithRawCallbackMethod_List<
                                v1::Models::WithRawCallbackMethod_Get<v1::Models::Service>> {
 public:
  explicit ModelsService(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* call,
                                 const grpc::ByteBuffer* request,
                                 grpc::ByteBuffer* response) override {
    return Answer<v1::ListModelsRequest>(
        call,
        request,
        response,
        [this](const v1::ListModelsRequest&) -> absl::StatusOr<v1::ListModelsResponse> {
          v1::ListModelsResponse out;
          for (const auto& model : context_.models.models()) {
            *out.add_models() = ToProto(*model, context_.models.state());
          }
          return out;
        });
  }

  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* call,
                                const grpc::ByteBuffer* request,
                                grpc::ByteBuffer* response) override {
    return Answer<v1::GetModelRequest>(
        call,
        request,
        response,
        [this](const v1::GetModelRequest& in) -> absl::StatusOr<v1::Model> {
          ASSIGN_OR_RETURN(const ServedModel* model, context_.models.Find(in.model()));
          return ToProto(*model, context_.models.state());
        });
  }

 private:
  const ServiceContext& context_;
};

class ControlService final
    : public v1::Control::WithRawCallbackMethod_GetLoad<
          v1::Control::WithRawCallbackMethod_GetMemoryPlan<v1::Control::Service>> {
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
          const ServedModel* only = nullptr;
          if (!in.model().empty()) {
            ASSIGN_OR_RETURN(only, context_.models.Find(in.model()));
          }
          v1::GetLoadResponse out;
          for (const auto& model : context_.models.models()) {
            if (only == nullptr || only == model.get()) {
              *out.add_models() = ToProto(model->engine->load(), model->name());
            }
          }
          const ConnectionCounts connections = context_.count_connections();
          out.set_calls(context_.gate.open.load());
          out.set_max_calls(context_.gate.max_calls);
          out.set_connections(connections.open);
          out.set_max_connections(connections.max);
          out.set_refused_connections(connections.refused);
          return out;
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
          ASSIGN_OR_RETURN(const ServedModel* model, context_.models.Find(in.model()));
          return MemoryPlanToProto(*model);
        });
  }

 private:
  const ServiceContext& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeInferenceService(const ServiceContext& context) {
  return std::make_unique<InferenceService>(context);
}

std::unique_ptr<grpc::Service> MakeTokenizerService(const ServiceContext& context) {
  return std::make_unique<TokenizerService>(context);
}

std::unique_ptr<grpc::Service> MakeModelsService(const ServiceContext& context) {
  return std::make_unique<ModelsService>(context);
}

std::unique_ptr<grpc::Service> MakeControlService(const ServiceContext& context) {
  return std::make_unique<ControlService>(context);
}

}  // namespace ringserve
