// A JSON document that keeps what a schema needs: the order of keys and the digits of numbers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/status.h"

namespace ringserve {

struct JsonValue {
  enum class Kind { kNull, kBoolean, kNumber, kString, kArray, kObject };

  Kind kind = Kind::kNull;
  bool boolean = false;
  std::string text = {};  // of a string its characters, of a number its digits as they were written
  std::vector<JsonValue> items = {};
  std::vector<std::pair<std::string, JsonValue>> members = {};
  std::vector<uint32_t> sorted = {};  // places of members, by key

  // Null if there is no such member.
  const JsonValue* Find(std::string_view key) const;

  // A number without a fraction, however it is written.
  bool IsWhole() const;
};

// INVALID_ARGUMENT: not JSON, duplicate keys, nested deeper than 128 levels, not UTF-8, more than
// `max_bytes`.
absl::StatusOr<JsonValue> ParseJsonValue(std::string_view text, size_t max_bytes);

// As JSON Schema compares: numbers by value, objects without order.
bool Equal(const JsonValue& a, const JsonValue& b);

}  // namespace ringserve
