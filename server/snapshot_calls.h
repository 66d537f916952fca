// Export and Import of a session: streams of a snapshot's bytes. Each call owns itself, and holds a
// piece of the snapshot and what session_transfer.h says at most.
#pragma once

#include <string>

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "engine/base/status.h"
#include "server/served_model.h"

namespace ringserve {

// INVALID_ARGUMENT unless it can be a session's id.
absl::Status CheckSessionId(const std::string& id);

// `status`: it ends before it began.
grpc::ServerWriteReactor<grpc::ByteBuffer>* RefuseExport(const absl::Status& status);
grpc::ServerReadReactor<grpc::ByteBuffer>* RefuseImport(const absl::Status& status);

grpc::ServerWriteReactor<grpc::ByteBuffer>* ExportSession(ServedModel& model,
                                                          const std::string& owner,
                                                          const std::string& id,
                                                          const CallOptions& options);
// `models` must outlive the call, as must `response`.
grpc::ServerReadReactor<grpc::ByteBuffer>* ImportSession(const ModelSet& models,
                                                         std::string owner,
                                                         const CallOptions& options,
                                                         grpc::ByteBuffer* response);

}  // namespace ringserve
