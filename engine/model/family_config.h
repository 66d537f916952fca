// What the families of models say in their config.json, and what transformers takes for granted
// where they say nothing.
#pragma once

#include "engine/base/json_reader.h"
#include "engine/base/problems.h"
#include "engine/model/model_config.h"

namespace ringserve {

// Reads "architectures" and every key of the family that it names, special tokens and dtype apart.
// False if the family is not known, which is noted.
bool ReadFamily(JsonReader& reader, ModelConfig& config, Problems& problems);

}  // namespace ringserve
