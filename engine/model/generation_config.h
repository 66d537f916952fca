// A model folder's generation_config.json: what transformers' generate() does by default.
#pragma once

#include <cstdint>

#include "engine/base/generation_defaults.h"
#include "engine/base/json_reader.h"
#include "engine/base/problems.h"

namespace ringserve {

// What generate() does without the file: greedy.
GenerationDefaults GreedyDefaults();

// As transformers reads it: only `do_sample: true` samples, whatever else the file states. top_k is
// no more than the vocabulary; `max_new_tokens` are max_tokens, while `max_length`, which counts
// the prompt too, is not taken over. What is not in the file is not stated here, where transformers
// has values of its own (top_k 50, max_length 20). Notes values that would change answers and that
// this engine does not have: beams, other truncations of the distribution, suppressed and forced
// tokens. Keys that say nothing of answers are left alone.
GenerationDefaults ReadGenerationConfig(JsonReader& reader, int32_t vocab_size, Problems& problems);

}  // namespace ringserve
