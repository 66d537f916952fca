// How answers are made where a request does not say: what a model's generation_config.json states,
// and what its JSON config puts in the place of that.
#pragma once

#include <cstdint>
#include <optional>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/json_reader.h"
#include "engine/base/problems.h"

namespace ringserve {

// The ranges are those of requests (engine/request.h). Not set: not stated; then the defaults of
// requests hold.
struct GenerationDefaults {
  std::optional<float> temperature;  // 0: greedy
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<int64_t> max_tokens;

  bool states_nothing() const {
    return !temperature && !top_k && !top_p && !min_p && !repetition_penalty && !max_tokens;
  }

  // Takes what `over` states.
  void Replace(const GenerationDefaults& over);
};

// Each under the key of its name, missing and null being "not stated".
GenerationDefaults ReadGenerationDefaults(JsonReader& reader, Problems& problems);

// The same object, with every key.
nlohmann::ordered_json GenerationDefaultsJson(const GenerationDefaults& defaults);

// The value of a key that may be missing or null, as a float in [range.min, range.max]; if
// `excludes_min`, above range.min.
std::optional<float> ReadOptionalFloat(JsonReader& reader,
                                       std::string_view key,
                                       DoubleRange range,
                                       bool excludes_min,
                                       Problems& problems);
std::optional<int64_t> ReadOptionalInt(JsonReader& reader,
                                       std::string_view key,
                                       IntRange range,
                                       Problems& problems);

}  // namespace ringserve
