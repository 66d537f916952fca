// Reads the rotary embedding's keys of a Hugging Face config.json.
#pragma once

#include <cstdint>

#include "engine/base/json_reader.h"
#include "engine/base/problems.h"
#include "engine/model/model_config.h"

namespace ringserve {

// What the family and the rest of the config say about it.
struct RopeContext {
  int32_t head_dim = 0;
  int64_t max_positions = 0;
  int64_t original_max_positions = 0;  // of the outer config; 0: it says nothing
  double default_theta = 10000.0;
  bool partial = false;              // the family may rotate a part of each head
  bool yarn_means_longrope = false;  // as early Phi-3 files spell it
};

// From "rope_parameters" (transformers 5) or "rope_theta" and "rope_scaling" (before). Every key
// inside must be known: all of them change the result.
RopeConfig ReadRopeConfig(JsonReader& reader, const RopeContext& context, Problems& problems);

// The keys of one object of such parameters, over what `rope` holds.
void ReadRopeParameters(JsonReader& reader,
                        const RopeContext& context,
                        RopeConfig& rope,
                        Problems& problems);

}  // namespace ringserve
