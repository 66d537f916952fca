// Reads the rotary embedding's keys of a Hugging Face config.json.
#pragma once

#include "engine/base/json_reader.h"
#include "engine/base/problems.h"
#include "engine/model/model_config.h"

namespace ringserve {

// From "rope_parameters" (transformers 5) or "rope_theta" and "rope_scaling" (before). Every key
// inside must be known: all of them change the result.
RopeConfig ReadRopeConfig(JsonReader& reader, Problems& problems);

}  // namespace ringserve
