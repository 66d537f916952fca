// Strict reading of JSON objects. A reader knows its object, the path to it and the keys it was
// asked for: a missing, unknown, duplicate, mistyped or out-of-range key is an error that begins
// with the key's path ("rings.buffer_size: 8 is not in [16, 1048576]"). Nothing is clamped or
// guessed.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/status.h"

namespace ringserve {

// Parses one JSON document. Refuses duplicate keys in any object (naming the key's path), nesting
// deeper than 64, invalid UTF-8, and trailing text. `what` names the source in errors.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view what);
// The same, and objects keep the order of their keys, of which one has at most 1024: they are
// searched one by one.
absl::StatusOr<nlohmann::ordered_json> ParseOrderedJson(std::string_view text,
                                                        std::string_view what);

// Reads a whole file. NOT_FOUND or INVALID_ARGUMENT (a directory, larger than max_bytes) name
// `path`.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes);

struct IntRange {
  int64_t min = std::numeric_limits<int64_t>::min();
  int64_t max = std::numeric_limits<int64_t>::max();
};

struct DoubleRange {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

// `object` must outlive the reader. One thread.
class JsonReader {
 public:
  // INVALID_ARGUMENT if `value` is not an object. `path` is "" for the root.
  static absl::StatusOr<JsonReader> Create(const nlohmann::json& value, std::string path);

  // Required keys.
  absl::StatusOr<int64_t> Int64(std::string_view key, IntRange range = {});
  absl::StatusOr<int32_t> Int32(std::string_view key, IntRange range = {});
  absl::StatusOr<double> Double(std::string_view key,
                                DoubleRange range = {});  // finite; integers too
  absl::StatusOr<bool> Bool(std::string_view key);
  absl::StatusOr<std::string> String(std::string_view key);
  // One of `values`; the error lists them.
  absl::StatusOr<std::string> Enum(std::string_view key,
                                   const std::vector<std::string_view>& values);
  absl::StatusOr<JsonReader> Object(std::string_view key);
  absl::StatusOr<const nlohmann::json*> Any(std::string_view key);

  // True if the key is there and not null. A null value counts as absent for Has only.
  bool Has(std::string_view key) const;
  // Marks the key as known without reading it (a key that is accepted and has no effect here).
  void Ignore(std::string_view key);
  // Keys of the object that were neither read nor ignored, sorted. Call last.
  std::vector<std::string> UnknownKeys() const;
  // Error that names the first of them.
  absl::Status Finish() const;

  const std::string& path() const { return path_; }

  // "path.key: message" as INVALID_ARGUMENT.
  absl::Status Error(std::string_view key, std::string_view message) const;

 private:
  JsonReader(const nlohmann::json* object, std::string path);

  const nlohmann::json* object_;
  std::string path_;
  std::unordered_set<std::string> known_;
};

}  // namespace ringserve
