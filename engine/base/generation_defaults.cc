#include "engine/base/generation_defaults.h"

#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace ringserve {
namespace {

template <typename T>
void ReplaceOne(std::optional<T>& to, const std::optional<T>& over) {
  if (over.has_value()) {
    to = over;
  }
}

template <typename T>
nlohmann::ordered_json OrNull(const std::optional<T>& value) {
  return value.has_value() ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

}  // namespace

void GenerationDefaults::Replace(const GenerationDefaults& over) {
  ReplaceOne(temperature, over.temperature);
  ReplaceOne(top_k, over.top_k);
  ReplaceOne(top_p, over.top_p);
  ReplaceOne(min_p, over.min_p);
  ReplaceOne(repetition_penalty, over.repetition_penalty);
  ReplaceOne(max_tokens, over.max_tokens);
}

std::optional<float> ReadOptionalFloat(JsonReader& reader,
                                       std::string_view key,
                                       DoubleRange range,
                                       bool excludes_min,
                                       Problems& problems) {
  if (!reader.Has(key)) {
    reader.Ignore(key);
    return std::nullopt;
  }
  double value = 0;
  if (!problems.Take(reader.Double(key, range), value)) {
    return std::nullopt;
  }
  // What is above the smallest value, and is that once it is rounded, is out of range too.
  if (excludes_min && static_cast<float>(value) <= static_cast<float>(range.min)) {
    problems.Add(
        reader.Error(key, fmt::format("{} is not in ({}, {}]", value, range.min, range.max)));
    return std::nullopt;
  }
  return static_cast<float>(value);
}

std::optional<int64_t> ReadOptionalInt(JsonReader& reader,
                                       std::string_view key,
                                       IntRange range,
                                       Problems& problems) {
  if (!reader.Has(key)) {
    reader.Ignore(key);
    return std::nullopt;
  }
  int64_t value = 0;
  return problems.Take(reader.Int64(key, range), value) ? std::optional(value) : std::nullopt;
}

GenerationDefaults ReadGenerationDefaults(JsonReader& reader, Problems& problems) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  GenerationDefaults out;
  out.temperature = ReadOptionalFloat(reader, "temperature", {0, 100}, false, problems);
  out.top_k = ReadOptionalInt(reader, "top_k", {0, kMax}, problems);
  out.top_p = ReadOptionalFloat(reader, "top_p", {0, 1}, true, problems);
  out.min_p = ReadOptionalFloat(reader, "min_p", {0, 1}, false, problems);
  out.repetition_penalty = ReadOptionalFloat(reader, "repetition_penalty", {0, 10}, true, problems);
  out.max_tokens = ReadOptionalInt(reader, "max_tokens", {1, kMax}, problems);
  return out;
}

nlohmann::ordered_json GenerationDefaultsJson(const GenerationDefaults& defaults) {
  return {{"temperature", OrNull(defaults.temperature)},
          {"top_k", OrNull(defaults.top_k)},
          {"top_p", OrNull(defaults.top_p)},
          {"min_p", OrNull(defaults.min_p)},
          {"repetition_penalty", OrNull(defaults.repetition_penalty)},
          {"max_tokens", OrNull(defaults.max_tokens)}};
}

}  // namespace ringserve
