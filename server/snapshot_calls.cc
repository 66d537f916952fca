#include "server/snapshot_calls.h"

#include <atomic>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "engine/session_transfer.h"
#include "server/convert.h"
#include "server/status.h"
#include "server/wire.h"

namespace ringserve {
namespace {

absl::Status Cancelled() {
  return absl::CancelledError("the call was cancelled");
}

// At any time a write is in flight, or the engine is asked for the next piece, or it is finished.
class ExportCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit ExportCall(const absl::Status& status) { End(status); }

  ExportCall(ServedModel& model,
             const std::string& owner,
             const std::string& id,
             const CallOptions& options)
      : engine_(model.engine.get()), call_id_(options.call_id) {
    model.engine->ExportSession(
        owner, id, options, [this](absl::StatusOr<std::unique_ptr<SessionExport>> begun) {
          if (!begun.ok()) {
            End(begun.status());
            return;
          }
          export_ = *std::move(begun);
          Continue();
        });
  }

  void OnWriteDone(bool ok) override {
    if (ok) {
      Continue();
    } else {
      End(Cancelled());
    }
  }

  void OnCancel() override {
    is_cancelled_ = true;
    if (engine_ != nullptr) {
      engine_->CancelCall(call_id_);  // it may be waiting
    }
  }

  void OnDone() override { delete this; }

 private:
  void Continue() {
    if (is_cancelled_) {
      End(Cancelled());
      return;
    }
    export_->Next([this](absl::StatusOr<std::string> piece) {
      if (!piece.ok() || piece->empty()) {
        End(piece.status());
        return;
      }
      v1::SnapshotChunk chunk;
      chunk.set_data(*std::move(piece));
      message_ = SerializeMessage(chunk);
      StartWrite(&message_);
    });
  }

  void End(const absl::Status& status) {
    export_.reset();  // a client that has its status may ask for the session again
    Finish(ToGrpcStatus(status));
  }

  EnginePort* const engine_ = nullptr;  // null: nothing is asked
  const uint64_t call_id_ = 0;
  std::unique_ptr<SessionExport> export_;
  grpc::ByteBuffer message_;  // of the write in flight
  std::atomic<bool> is_cancelled_ = false;
};

// At any time a read is in flight, or the engine takes a piece, or it is finished.
class ImportCall final : public grpc::ServerReadReactor<grpc::ByteBuffer> {
 public:
  explicit ImportCall(const absl::Status& status) { End(status); }

  ImportCall(const ModelSet& models,
             std::string owner,
             const CallOptions& options,
             grpc::ByteBuffer* response)
      : models_(&models), owner_(std::move(owner)), options_(options), response_(response) {
    StartRead(&message_);
  }

  void OnReadDone(bool ok) override {
    if (is_cancelled_) {
      End(Cancelled());
      return;
    }
    if (!ok) {
      Complete();
      return;
    }
    if (absl::Status taken = TakeMessage(); !taken.ok()) {
      End(taken);
    }
  }

  void OnCancel() override {
    is_cancelled_ = true;
    if (EnginePort* const engine = engine_; engine != nullptr) {
      engine->CancelCall(options_.call_id);  // it may be waiting
    }
  }

  void OnDone() override { delete this; }

 private:
  absl::Status TakeMessage() {
    v1::ImportSessionRequest request;
    RETURN_IF_ERROR(ParseMessage(message_, request));
    RETURN_IF_ERROR(RefuseUnknownFields(request));
    if (import_ == nullptr) {
      ASSIGN_OR_RETURN(ServedModel * model, models_->Find(request.model()));
      model_name_ = model->name();
      import_ = model->engine->ImportSession(owner_, options_);
      if (import_ == nullptr) {
        return absl::UnimplementedError("this engine keeps no sessions");
      }
      engine_ = model->engine.get();
    } else if (!request.model().empty()) {
      return absl::InvalidArgumentError("model: set in a message that is not the first");
    }
    import_->Add(std::move(*request.mutable_data()), [this](const absl::Status& added) {
      if (added.ok()) {
        StartRead(&message_);
      } else {
        End(added);
      }
    });
    if (is_cancelled_) {
      engine_.load()->CancelCall(options_.call_id);  // the cancel may have come before the question
    }
    return absl::OkStatus();
  }

  // The client has sent all.
  void Complete() {
    if (import_ == nullptr) {
      End(absl::InvalidArgumentError("data: there is no message"));
      return;
    }
    import_->Finish([this](const absl::StatusOr<SessionInfo>& info) {
      if (info.ok()) {
        *response_ = SerializeMessage(ToProto(*info, model_name_));
      }
      End(info.status());
    });
  }

  void End(const absl::Status& status) {
    import_.reset();  // a client that has its status may use what an import that failed held
    Finish(ToGrpcStatus(status));
  }

  const ModelSet* const models_ = nullptr;
  const std::string owner_;
  const CallOptions options_;
  std::atomic<EnginePort*> engine_ = nullptr;  // once it was asked
  grpc::ByteBuffer* const response_ = nullptr;
  std::string model_name_;
  std::unique_ptr<SessionImport> import_;
  grpc::ByteBuffer message_;  // of the read in flight
  std::atomic<bool> is_cancelled_ = false;
};

}  // namespace

absl::Status CheckSessionId(const std::string& id) {
  constexpr size_t kMaxIdBytes = 128;
  if (id.empty() || id.size() > kMaxIdBytes) {
    return absl::InvalidArgumentError(
        fmt::format("id: {} bytes, not in [1, {}]", id.size(), kMaxIdBytes));
  }
  return absl::OkStatus();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* RefuseExport(const absl::Status& status) {
  return new ExportCall(status);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* RefuseImport(const absl::Status& status) {
  return new ImportCall(status);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ExportSession(ServedModel& model,
                                                          const std::string& owner,
                                                          const std::string& id,
                                                          const CallOptions& options) {
  return new ExportCall(model, owner, id, options);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* ImportSession(const ModelSet& models,
                                                         std::string owner,
                                                         const CallOptions& options,
                                                         grpc::ByteBuffer* response) {
  return new ImportCall(models, std::move(owner), options, response);
}

}  // namespace ringserve
