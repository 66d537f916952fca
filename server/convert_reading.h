// Score and Embed: messages of the wire to requests of the engine, and what these came to, back.
#pragma once

#include <cstdint>

#include "engine/base/status.h"
#include "engine/request.h"
#include "ringserve/v1/inference.pb.h"
#include "server/reading.h"
#include "server/served_model.h"

namespace ringserve {

// As ConvertRequest: what the engine does not see is checked here; ids, owner and deadline are the
// caller's to set. INVALID_ARGUMENT names field, value and range; UNIMPLEMENTED.
absl::StatusOr<GenerateRequest> ConvertScore(const v1::ScoreRequest& in, const ServedModel& model);
absl::StatusOr<GenerateRequest> ConvertEmbed(const v1::EmbedRequest& in, const ServedModel& model);

// Of a reading that ended well. `num_alternatives` as the request said it.
v1::ScoreResponse ScoreToProto(const Reading& reading,
                               const ServedModel& model,
                               int32_t num_alternatives);
v1::EmbedResponse EmbedToProto(const Reading& reading, const ServedModel& model);

}  // namespace ringserve
