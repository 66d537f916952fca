// Messages of the wire to structs of the engine and back. Nobody else converts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <absl/time/time.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/message.h>

#include "engine/base/status.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "engine/session_info.h"
#include "ringserve/v1/control.pb.h"
#include "ringserve/v1/inference.pb.h"
#include "ringserve/v1/models.pb.h"
#include "ringserve/v1/sessions.pb.h"
#include "server/caller_accounts.h"
#include "server/event_buffer.h"
#include "server/served_model.h"

namespace ringserve {

// A request for the engine and what its stream has to know. Ids (NameCompletions), owner and
// deadline are the caller's to set.
struct ConvertedRequest {
  GenerateRequest request;
  StreamOptions stream;
  bool keeps_delivered = false;  // ON_CANCEL_KEEP_DELIVERED
};

// Of requests to models that do not state a number.
inline constexpr int64_t kDefaultMaxTokens = 256;

// Checks everything that the engine does not see (text, presence, lengths, ranges of the wire's
// wider integers); the engine checks the rest in Submit. INVALID_ARGUMENT names field, value and
// range.
absl::StatusOr<ConvertedRequest> ConvertRequest(const v1::GenerateRequest& request,
                                                const ServedModel& model);

// Completion i of the request is the engine's request `first_id` + i.
void NameCompletions(GenerateRequest& request, uint64_t first_id);

// INVALID_ARGUMENT naming `field` and `range`, which is [min, max] in words, if it is not in there.
// `max` is at most 366 days.
absl::StatusOr<absl::Duration> ConvertDuration(const google::protobuf::Duration& in,
                                               const std::string& field,
                                               absl::Duration min,
                                               absl::Duration max,
                                               std::string_view range);

// INVALID_ARGUMENT unless it can name a request.
absl::Status CheckRequestId(const std::string& request_id);

// INVALID_ARGUMENT naming the first field, at any depth, that this server's messages do not have.
absl::Status RefuseUnknownFields(const google::protobuf::Message& message);

EncodeOptions ToEncodeOptions(const v1::TokenizeOptions& options);

google::protobuf::Duration ToProto(absl::Duration duration);
v1::FinishReason ToProto(FinishReason reason);
v1::Usage ToProto(const Usage& usage);
// With at most `num_alternatives` of its alternatives.
void ScoredTokenToProto(const ScoredToken& token,
                        const Tokenizer& tokenizer,
                        int32_t num_alternatives,
                        v1::ScoredToken& out);
v1::Timings ToProto(const Timings& timings);
v1::Model ToProto(const ServedModel& model, ModelSet::State state);
v1::Session ToProto(const SessionInfo& info, const std::string& model);
v1::ModelLoad ToProto(const EngineLoad& load, std::string_view model);
v1::GetUsageResponse ToProto(const CallerUsage& usage);
v1::GetMemoryPlanResponse MemoryPlanToProto(const ServedModel& model);

}  // namespace ringserve
