// An independent reading of JSON Schema for tests: says whether a document satisfies a schema, by
// plain recursion over both. Knows what the tests' schemas use; an unknown keyword fails the test.
#pragma once

#include <algorithm>
#include <cmath>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/catch.h"

namespace ringserve {

class JsonSchemaValidator {
 public:
  using Json = nlohmann::ordered_json;

  explicit JsonSchemaValidator(const Json& schema) : root_(schema) {}

  bool Allows(const Json& value) const { return Allows(root_, value); }

 private:
  bool Allows(const Json& schema, const Json& value) const {
    if (schema.is_boolean()) {
      return schema.get<bool>();
    }
    return std::all_of(schema.items().begin(), schema.items().end(), [&](const auto& item) {
      return Keyword(schema, item.key(), item.value(), value);
    });
  }

  static bool IsType(const std::string& type, const Json& value) {
    if (type == "integer") {
      return value.is_number() && std::floor(value.get<double>()) == value.get<double>();
    }
    return (type == "null" && value.is_null()) || (type == "boolean" && value.is_boolean()) ||
           (type == "number" && value.is_number()) || (type == "string" && value.is_string()) ||
           (type == "array" && value.is_array()) || (type == "object" && value.is_object());
  }

  bool Keyword(const Json& schema,
               const std::string& key,
               const Json& rule,
               const Json& value) const {
    if (key == "type") {
      const Json types = rule.is_array() ? rule : Json::array({rule});
      return std::any_of(types.begin(), types.end(), [&](const Json& type) {
        return IsType(type.get<std::string>(), value);
      });
    }
    if (key == "enum") {
      return std::find(rule.begin(), rule.end(), value) != rule.end();
    }
    if (key == "const") {
      return rule == value;
    }
    if (key == "$ref") {
      const std::string pointer = rule.get<std::string>().substr(1);
      return Allows(root_.at(Json::json_pointer(pointer)), value);
    }
    if (key == "allOf" || key == "anyOf" || key == "oneOf") {
      const auto count = std::count_if(
          rule.begin(), rule.end(), [&](const Json& one) { return Allows(one, value); });
      return key == "allOf"   ? count == static_cast<int64_t>(rule.size())
             : key == "anyOf" ? count > 0
                              : count == 1;
    }
    static const std::set<std::string> others = {"$defs", "title", "description", "default"};
    if (others.contains(key)) {
      return true;
    }
    if (value.is_string() && IsStringKeyword(key)) {
      return StringKeyword(key, rule, value.get<std::string>());
    }
    if (value.is_number() && IsNumberKeyword(key)) {
      return NumberKeyword(key, rule.get<double>(), value.get<double>());
    }
    if (value.is_array() && IsArrayKeyword(key)) {
      return ArrayKeyword(schema, key, rule, value);
    }
    if (value.is_object() && IsObjectKeyword(key)) {
      return ObjectKeyword(schema, key, rule, value);
    }
    REQUIRE((IsStringKeyword(key) || IsNumberKeyword(key) || IsArrayKeyword(key) ||
             IsObjectKeyword(key)));
    return true;
  }

  static bool IsStringKeyword(const std::string& key) {
    return key == "minLength" || key == "maxLength" || key == "pattern" || key == "format";
  }

  static bool IsNumberKeyword(const std::string& key) {
    return key == "minimum" || key == "maximum" || key == "exclusiveMinimum" ||
           key == "exclusiveMaximum" || key == "multipleOf";
  }

  static bool IsArrayKeyword(const std::string& key) {
    return key == "items" || key == "prefixItems" || key == "minItems" || key == "maxItems";
  }

  static bool IsObjectKeyword(const std::string& key) {
    return key == "properties" || key == "required" || key == "additionalProperties" ||
           key == "patternProperties" || key == "propertyNames" || key == "minProperties" ||
           key == "maxProperties";
  }

  static bool StringKeyword(const std::string& key, const Json& rule, const std::string& value) {
    const auto length = std::count_if(value.begin(), value.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    });
    if (key == "minLength") {
      return length >= rule.get<int64_t>();
    }
    if (key == "maxLength") {
      return length <= rule.get<int64_t>();
    }
    if (key == "pattern") {
      return std::regex_search(value, std::regex(rule.get<std::string>()));
    }
    static const std::vector<std::pair<std::string, std::string>> formats = {
        {"date", "\\d{4}-\\d{2}-\\d{2}"},
        {"time", "\\d{2}:\\d{2}:\\d{2}(\\.\\d+)?(Z|[+-]\\d{2}:\\d{2})"},
        {"date-time", "\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}(\\.\\d+)?(Z|[+-]\\d{2}:\\d{2})"},
        {"uuid", "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"},
        {"email", "[^@ ]+@[^@ ]+\\.[A-Za-z]+"},
        {"ipv4", "\\d{1,3}(\\.\\d{1,3}){3}"},
        {"ipv6", "[0-9a-fA-F:]+"},
        {"uri", "[A-Za-z][A-Za-z0-9+.-]*:[^ \"<>]+"},
        {"hostname", "[A-Za-z0-9.-]+"}};
    for (const auto& [name, pattern] : formats) {
      if (rule.get<std::string>() == name) {
        return std::regex_match(value, std::regex(pattern));
      }
    }
    FAIL("no format " << rule);
    return false;
  }

  static bool NumberKeyword(const std::string& key, double rule, double value) {
    if (key == "multipleOf") {
      return std::fmod(value, rule) == 0;
    }
    return key == "minimum"            ? value >= rule
           : key == "maximum"          ? value <= rule
           : key == "exclusiveMinimum" ? value > rule
                                       : value < rule;
  }

  bool ArrayKeyword(const Json& schema,
                    const std::string& key,
                    const Json& rule,
                    const Json& value) const {
    if (key == "minItems") {
      return value.size() >= rule.get<size_t>();
    }
    if (key == "maxItems") {
      return value.size() <= rule.get<size_t>();
    }
    const size_t num_prefix = schema.contains("prefixItems") ? schema["prefixItems"].size() : 0;
    for (size_t i = 0; i < value.size(); ++i) {
      const bool concerns = key == "items" ? i >= num_prefix : i < num_prefix;
      if (concerns && !Allows(key == "items" ? rule : rule[i], value[i])) {
        return false;
      }
    }
    return true;
  }

  bool ObjectKeyword(const Json& schema,
                     const std::string& key,
                     const Json& rule,
                     const Json& value) const {
    if (key == "minProperties") {
      return value.size() >= rule.get<size_t>();
    }
    if (key == "maxProperties") {
      return value.size() <= rule.get<size_t>();
    }
    if (key == "required") {
      return std::all_of(rule.begin(), rule.end(), [&](const Json& name) {
        return value.contains(name.get<std::string>());
      });
    }
    for (const auto& [name, member] : value.items()) {
      const bool is_named = schema.contains("properties") && schema["properties"].contains(name);
      bool matches = false;
      if (schema.contains("patternProperties")) {
        for (const auto& [pattern, one] : schema["patternProperties"].items()) {
          if (std::regex_search(name, std::regex(pattern))) {
            matches = true;
            if (key == "patternProperties" && !Allows(one, member)) {
              return false;
            }
          }
        }
      }
      if (key == "properties" && is_named && !Allows(rule[name], member)) {
        return false;
      }
      if (key == "additionalProperties" && !is_named && !matches && !Allows(rule, member)) {
        return false;
      }
      if (key == "propertyNames" && !Allows(rule, Json(name))) {
        return false;
      }
    }
    return true;
  }

  const Json& root_;
};

}  // namespace ringserve
