#include "server/services.h"

#include <utility>

#include "ringserve/v1/inference.grpc.pb.h"
#include "ringserve/v1/models.grpc.pb.h"
#include "ringserve/v1/tokenizer.grpc.pb.h"
#include "server/answer.h"
#include "server/convert.h"
#include "server/convert_chat.h"
#include "server/reading_call.h"
#include "server/wire.h"

namespace ringserve {
namespace {

// Registered as the generated classes register a method whose messages are bytes, but with a
// message of our own going out.
class InferenceService final : public v1::Inference::Service {
 public:
  explicit InferenceService(const ServiceContext& context) : context_(context) {
    using Handler = grpc::internal::CallbackServerStreamingHandler<grpc::ByteBuffer, OutgoingBytes>;
    constexpr int kGenerate = 0;  // in the order of the service's methods
    constexpr int kAttach = 1;
    constexpr int kScore = 2;
    constexpr int kEmbed = 3;
    // NOLINTBEGIN(cppcoreguidelines-owning-memory): gRPC owns handlers.
    MarkMethodRawCallback(
        kGenerate,
        new Handler([this](grpc::CallbackServerContext* call, const grpc::ByteBuffer* request) {
          return GenerateCall::Generate(
              *call, *request, context_.calls, context_.find_connection(call->peer()));
        }));
    MarkMethodRawCallback(
        kAttach,
        new Handler([this](grpc::CallbackServerContext* call, const grpc::ByteBuffer* request) {
          return GenerateCall::Attach(*call, *request, context_.calls);
        }));
    using Unary = grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, grpc::ByteBuffer>;
    MarkMethodRawCallback(kScore,
                          new Unary([this](grpc::CallbackServerContext* call,
                                           const grpc::ByteBuffer* request,
                                           grpc::ByteBuffer* response) {
                            return BeginScore(*call, *request, *response, context_.calls);
                          }));
    MarkMethodRawCallback(kEmbed,
                          new Unary([this](grpc::CallbackServerContext* call,
                                           const grpc::ByteBuffer* request,
                                           grpc::ByteBuffer* response) {
                            return BeginEmbed(*call, *request, *response, context_.calls);
                          }));
    // NOLINTEND(cppcoreguidelines-owning-memory)
  }

 private:
  const ServiceContext& context_;
};

class TokenizerService final
    : public v1::Tokenizer::WithRawCallbackMethod_Tokenize<
          v1::Tokenizer::WithRawCallbackMethod_Detokenize<
              v1::Tokenizer::WithRawCallbackMethod_RenderChat<v1::Tokenizer::Service>>> {
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
          ASSIGN_OR_RETURN(const ServedModel* model, context_.calls.models.Find(in.model()));
          RETURN_IF_ERROR(model->CheckTokenizer("text"));
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
          ASSIGN_OR_RETURN(const ServedModel* model, context_.calls.models.Find(in.model()));
          RETURN_IF_ERROR(model->CheckTokenizer("token_ids"));
          const std::span<const int32_t> ids(in.token_ids().data(), in.token_ids().size());
          v1::DetokenizeResponse out;
          ASSIGN_OR_RETURN(*out.mutable_text(),
                           model->tokenizer->Decode(ids, !in.include_special_tokens()));
          return out;
        });
  }

  grpc::ServerUnaryReactor* RenderChat(grpc::CallbackServerContext* call,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override {
    return Answer<v1::RenderChatRequest>(
        call,
        request,
        response,
        [this](const v1::RenderChatRequest& in) -> absl::StatusOr<v1::RenderChatResponse> {
          ASSIGN_OR_RETURN(const ServedModel* model, context_.calls.models.Find(in.model()));
          ASSIGN_OR_RETURN(RenderedChat rendered, ringserve::RenderChat(in.chat(), *model));
          v1::RenderChatResponse out;
          out.set_text(std::move(rendered.text));
          out.mutable_token_ids()->Assign(rendered.token_ids.begin(), rendered.token_ids.end());
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
          for (const auto& model : context_.calls.models.models()) {
            *out.add_models() = ToProto(*model, context_.calls.models.state());
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
          ASSIGN_OR_RETURN(const ServedModel* model, context_.calls.models.Find(in.model()));
          return ToProto(*model, context_.calls.models.state());
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

}  // namespace ringserve
