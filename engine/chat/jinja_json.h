// JSON and the values of templates.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/status.h"
#include "engine/chat/jinja_value.h"

namespace ringserve::jinja {

// Objects keep their order. Integers past 64 bits become floats.
Value FromJson(const nlohmann::ordered_json& json, Budget* budget);

struct JsonStyle {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  // none: one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};

// Python's json.dumps. A TypeError in words for what has no JSON.
absl::StatusOr<std::string> ToJson(const Value& value, const JsonStyle& style, Budget* budget);

}  // namespace ringserve::jinja
