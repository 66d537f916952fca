#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "ringserve/v1/sessions.grpc.pb.h"
#include "server/answer.h"
#include "server/caller.h"
#include "server/convert.h"
#include "server/services.h"
#include "server/snapshot_calls.h"

namespace ringserve {
namespace {

// What a method's raw form is called in generated code, from the inside out.
using RawCreate = v1::Sessions::WithRawCallbackMethod_Create<v1::Sessions::Service>;
using RawGet = v1::Sessions::WithRawCallbackMethod_Get<RawCreate>;
using RawList = v1::Sessions::WithRawCallbackMethod_List<RawGet>;
using RawFork = v1::Sessions::WithRawCallbackMethod_Fork<RawList>;
using RawRollback = v1::Sessions::WithRawCallbackMethod_Rollback<RawFork>;
using RawClose = v1::Sessions::WithRawCallbackMethod_Close<RawRollback>;
using RawExport = v1::Sessions::WithRawCallbackMethod_Export<RawClose>;
using RawImport = v1::Sessions::WithRawCallbackMethod_Import<RawExport>;

class SessionsService final : public RawImport {
 public:
  explicit SessionsService(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* Create(grpc::CallbackServerContext* call,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override {
    return Ask<v1::CreateSessionRequest>(
        call,
        request,
        response,
        [](const v1::CreateSessionRequest& in, Question& question) -> absl::Status {
          SessionOptions options;
          if (in.buffer_size() < 0) {
            return absl::InvalidArgumentError(
                fmt::format("buffer_size: {} is below 0", in.buffer_size()));
          }
          options.buffer_size = in.buffer_size();
          if (in.has_idle_timeout()) {
            ASSIGN_OR_RETURN(options.idle_timeout,
                             ConvertDuration(in.idle_timeout(),
                                             "idle_timeout",
                                             absl::Seconds(1),
                                             absl::Hours(24 * 365),
                                             "[1 s, 365 days]"));
          }
          question.engine.CreateSession(
              std::move(question.owner), options, std::move(question.reply));
          return absl::OkStatus();
        });
  }

  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* call,
                                const grpc::ByteBuffer* request,
                                grpc::ByteBuffer* response) override {
    return Ask<v1::GetSessionRequest>(
        call,
        request,
        response,
        [](const v1::GetSessionRequest& in, Question& question) -> absl::Status {
          RETURN_IF_ERROR(CheckSessionId(in.id()));
          question.engine.GetSession(std::move(question.owner), in.id(), std::move(question.reply));
          return absl::OkStatus();
        });
  }

  grpc::ServerUnaryReactor* Rollback(grpc::CallbackServerContext* call,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    return Ask<v1::RollbackSessionRequest>(
        call,
        request,
        response,
        [this](const v1::RollbackSessionRequest& in, Question& question) -> absl::Status {
          RETURN_IF_ERROR(CheckSessionId(in.id()));
          if (!in.has_position()) {
            return absl::InvalidArgumentError("position: not set");
          }
          SessionReply counts =
              [&accounts = context_.calls.accounts,
               owner = question.owner,
               reply = std::move(question.reply)](const absl::StatusOr<SessionInfo>& info) {
                if (info.ok()) {
                  accounts.CountRollback(owner);
                }
                reply(info);
              };
          question.engine.RollbackSession(
              question.owner, in.id(), in.position(), question.options, std::move(counts));
          return absl::OkStatus();
        });
  }

  grpc::ServerUnaryReactor* Close(grpc::CallbackServerContext* call,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override {
    return Ask<v1::CloseSessionRequest>(
        call,
        request,
        response,
        [](const v1::CloseSessionRequest& in, Question& question) -> absl::Status {
          RETURN_IF_ERROR(CheckSessionId(in.id()));
          question.engine.CloseSession(
              std::move(question.owner), in.id(), std::move(question.reply));
          return absl::OkStatus();
        });
  }

  grpc::ServerUnaryReactor* Fork(grpc::CallbackServerContext* call,
                                 const grpc::ByteBuffer* request,
                                 grpc::ByteBuffer* response) override {
    return Ask<v1::ForkSessionRequest>(
        call,
        request,
        response,
        [](const v1::ForkSessionRequest& in, Question& question) -> absl::Status {
          RETURN_IF_ERROR(CheckSessionId(in.id()));
          const std::optional<int64_t> position =
              in.has_position() ? std::optional<int64_t>(in.position()) : std::nullopt;
          question.engine.ForkSession(
              question.owner, in.id(), position, question.options, std::move(question.reply));
          return absl::OkStatus();
        });
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Export(grpc::CallbackServerContext* call,
                                                     const grpc::ByteBuffer* request) override {
    v1::ExportSessionRequest in;
    absl::StatusOr<Target> target = FindTarget(*call, *request, in);
    absl::Status status = target.status();
    status.Update(CheckSessionId(in.id()));
    return status.ok() ? ExportSession(*target->model, target->owner, in.id(), OptionsOf(*call))
                       : RefuseExport(status);
  }

  grpc::ServerReadReactor<grpc::ByteBuffer>* Import(grpc::CallbackServerContext* call,
                                                    grpc::ByteBuffer* response) override {
    absl::StatusOr<std::string> owner = CallerIdentity(*call, context_.calls.identity_header);
    return owner.ok()
               ? ImportSession(context_.calls.models, *std::move(owner), OptionsOf(*call), response)
               : RefuseImport(owner.status());
  }

  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* call,
                                 const grpc::ByteBuffer* request,
                                 grpc::ByteBuffer* response) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    v1::ListSessionsRequest in;
    absl::StatusOr<Target> target = FindTarget(*call, *request, in);
    if (!target.ok()) {
      reactor->Finish(ToGrpcStatus(target.status()));
      return reactor;
    }
    target->model->engine->ListSessions(
        std::move(target->owner),
        [reactor, response, model = target->model->name()](
            const absl::StatusOr<std::vector<SessionInfo>>& sessions) {
          if (sessions.ok()) {
            v1::ListSessionsResponse out;
            for (const SessionInfo& info : *sessions) {
              *out.add_sessions() = ToProto(info, model);
            }
            *response = SerializeMessage(out);
          }
          reactor->Finish(ToGrpcStatus(sessions.status()));
        });
    return reactor;
  }

 private:
  // Whose sessions of which model.
  struct Target {
    ServedModel* model;
    std::string owner;
  };

  // What is put to an engine: `reply` ends the call. To be moved from.
  struct Question {
    EnginePort& engine;
    std::string owner;
    CallOptions options;
    SessionReply reply;
  };

  // One that may have to wait. Owned by itself from its start to OnDone.
  class AskCall final : public grpc::ServerUnaryReactor {
   public:
    AskCall(EnginePort* engine, uint64_t call_id) : engine_(engine), call_id_(call_id) {}

    // The engine lets go of what waits, and says so: then the call ends.
    void OnCancel() override {
      if (engine_ != nullptr) {
        engine_->CancelCall(call_id_);
      }
    }

    void OnDone() override { delete this; }

   private:
    EnginePort* const engine_;  // null: nothing was asked
    const uint64_t call_id_;
  };

  template <typename Request>
  absl::StatusOr<Target> FindTarget(const grpc::CallbackServerContext& call,
                                    const grpc::ByteBuffer& bytes,
                                    Request& request) const {
    RETURN_IF_ERROR(ParseMessage(bytes, request));
    RETURN_IF_ERROR(RefuseUnknownFields(request));
    ASSIGN_OR_RETURN(std::string owner, CallerIdentity(call, context_.calls.identity_header));
    ASSIGN_OR_RETURN(ServedModel * model, context_.calls.models.Find(request.model()));
    return Target{model, std::move(owner)};
  }

  // Parses, and lets ask(request, question) -> absl::Status put the question to the engine, whose
  // answer ends the call; as does a status that is not OK, if nothing was asked.
  template <typename Request, typename AskEngine>
  grpc::ServerUnaryReactor* Ask(grpc::CallbackServerContext* call,
                                const grpc::ByteBuffer* bytes,
                                grpc::ByteBuffer* answer,
                                const AskEngine& ask) const {
    Request request;
    absl::StatusOr<Target> target = FindTarget(*call, *bytes, request);
    absl::Status status = target.status();
    const CallOptions options = OptionsOf(*call);
    // NOLINTNEXTLINE(cppcoreguidelines-owning-memory): it ends itself with the call.
    auto* reactor =
        new AskCall(status.ok() ? target->model->engine.get() : nullptr, options.call_id);
    if (status.ok()) {
      Question question{.engine = *target->model->engine,
                        .owner = std::move(target->owner),
                        .options = options,
                        .reply = [reactor, answer, model = target->model->name()](
                                     const absl::StatusOr<SessionInfo>& info) {
                          if (info.ok()) {
                            *answer = SerializeMessage(ToProto(*info, model));
                          }
                          reactor->Finish(ToGrpcStatus(info.status()));
                        }};
      status = ask(request, question);
    }
    if (!status.ok()) {
      reactor->Finish(ToGrpcStatus(status));
    }
    return reactor;
  }

  const ServiceContext& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeSessionsService(const ServiceContext& context) {
  return std::make_unique<SessionsService>(context);
}

}  // namespace ringserve
