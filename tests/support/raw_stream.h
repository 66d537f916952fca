// A call of any method with bytes for messages, for services whose messages the distributions do
// not pack.
#pragma once

#include <memory>
#include <string>

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>

#include "engine/base/check.h"

namespace ringserve {

class RawStream {
 public:
  RawStream(const std::shared_ptr<grpc::Channel>& channel,
            const std::string& method,
            const std::string& request)
      : stub_(channel) {
    call_ = stub_.PrepareCall(&context_, method, &queue_);
    call_->StartCall(nullptr);
    RS_CHECK(Next());
    const grpc::Slice slice(request);
    const grpc::ByteBuffer bytes(&slice, 1);
    call_->WriteLast(bytes, {}, nullptr);
    Next();  // fails if the call has ended already; Finish says so
  }

  ~RawStream() {
    context_.TryCancel();
    if (!finished_) {
      Finish();
    }
    queue_.Shutdown();
    while (Next()) {
    }
  }

  RawStream(const RawStream&) = delete;
  RawStream& operator=(const RawStream&) = delete;

  // The next message, or "" at the end.
  std::string Read() {
    grpc::ByteBuffer bytes;
    call_->Read(&bytes, nullptr);
    if (!Next()) {
      return "";
    }
    grpc::Slice slice;
    RS_CHECK(bytes.DumpToSingleSlice(&slice).ok());
    return std::string(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }

  grpc::Status Finish() {
    grpc::Status status;
    call_->Finish(&status, nullptr);
    Next();
    finished_ = true;
    return status;
  }

 private:
  bool Next() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  bool finished_ = false;
};

}  // namespace ringserve
