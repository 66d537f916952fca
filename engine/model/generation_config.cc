#include "engine/model/generation_config.h"

#include <algorithm>
#include <limits>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace ringserve {
namespace {

// Keys that would change answers, with the values that say nothing; null and absent do so too.
struct Refused {
  const char* key;
  const char* neutral;  // a JSON array
};

constexpr Refused kRefused[] = {
    {"num_beams", "[1]"},
    {"num_beam_groups", "[1]"},
    {"num_return_sequences", "[1]"},
    {"diversity_penalty", "[0]"},
    {"penalty_alpha", "[]"},
    {"typical_p", "[1]"},
    {"epsilon_cutoff", "[0]"},
    {"eta_cutoff", "[0]"},
    {"top_h", "[]"},
    {"guidance_scale", "[1]"},
    {"no_repeat_ngram_size", "[0]"},
    {"encoder_no_repeat_ngram_size", "[0]"},
    {"encoder_repetition_penalty", "[1]"},
    {"exponential_decay_length_penalty", "[]"},
    {"min_length", "[0]"},
    {"min_new_tokens", "[0]"},
    {"bad_words_ids", "[[]]"},
    {"force_words_ids", "[[]]"},
    {"sequence_bias", "[{}]"},
    {"suppress_tokens", "[[]]"},
    {"begin_suppress_tokens", "[[]]"},
    {"forced_bos_token_id", "[]"},
    {"forced_eos_token_id", "[]"},
    {"forced_decoder_ids", "[[]]"},
    {"stop_strings", "[[]]"},
    {"watermarking_config", "[]"},
    {"dola_layers", "[]"},
};

void Refuse(JsonReader& reader, Problems& problems) {
  for (const Refused& refused : kRefused) {
    const auto value = reader.Any(refused.key);
    if (!value.ok() || (*value)->is_null()) {
      continue;
    }
    const auto neutral = nlohmann::json::parse(refused.neutral);
    if (std::find(neutral.begin(), neutral.end(), **value) == neutral.end()) {
      problems.Add(reader.Error(refused.key, fmt::format("{} is not supported", (*value)->dump())));
    }
  }
}

}  // namespace

GenerationDefaults GreedyDefaults() {
  GenerationDefaults greedy;
  greedy.temperature = 0.0F;
  return greedy;
}

GenerationDefaults ReadGenerationConfig(JsonReader& reader,
                                        int32_t vocab_size,
                                        Problems& problems) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  bool do_sample = false;
  if (reader.Has("do_sample")) {
    problems.Take(reader.Bool("do_sample"), do_sample);
  }
  GenerationDefaults out;
  out.temperature = ReadOptionalFloat(reader, "temperature", {0, 100}, false, problems);
  if (!do_sample) {
    out.temperature = 0.0F;
  }
  if (const auto top_k = ReadOptionalInt(reader, "top_k", {0, kMax}, problems)) {
    out.top_k = static_cast<int32_t>(std::min<int64_t>(*top_k, vocab_size));
  }
  out.top_p = ReadOptionalFloat(reader, "top_p", {0, 1}, true, problems);
  out.min_p = ReadOptionalFloat(reader, "min_p", {0, 1}, false, problems);
  out.repetition_penalty = ReadOptionalFloat(reader, "repetition_penalty", {0, 10}, true, problems);
  out.max_tokens = ReadOptionalInt(reader, "max_new_tokens", {1, kMax}, problems);
  Refuse(reader, problems);
  return out;
}

}  // namespace ringserve
