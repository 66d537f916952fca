// Random documents that satisfy a schema of RandomSchema, with their keys in the order in which
// constrained output writes them.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/random.h"
#include "tests/support/random_schema.h"

namespace ringserve {

class RandomDocument {
 public:
  using Json = nlohmann::ordered_json;

  explicit RandomDocument(uint64_t seed) : random_(seed) {}

  Json Make(const Json& schema) { return Document(schema, schema, 0); }

 private:
  bool Chance(int percent) { return random_.Int(1, 100) <= percent; }

  template <typename T>
  const T& Pick(const std::vector<T>& from) {
    return from[static_cast<size_t>(random_.Int(0, static_cast<int64_t>(from.size()) - 1))];
  }

  Json Document(const Json& root, const Json& schema, int depth);
  Json NumberDocument(const Json& schema);
  Json ObjectDocument(const Json& root, const Json& schema, int depth);
  std::string Text(int64_t low, int64_t high);

  Random random_;
};

inline std::string RandomDocument::Text(int64_t low, int64_t high) {
  static const std::vector<std::string> characters = {"a",
                                                      "b",
                                                      "q",
                                                      " ",
                                                      "\"",
                                                      "\\",
                                                      "/",
                                                      "\n",
                                                      "\t",
                                                      "\x01",
                                                      "\xc3\xa9",
                                                      "\xe2\x82\xac",
                                                      "\xf0\x9f\x98\x80",
                                                      "Z",
                                                      "0",
                                                      ",",
                                                      "}"};
  std::string text;
  for (int64_t i = random_.Int(low, high); i > 0; --i) {
    text += Pick(characters);
  }
  return text;
}

inline RandomDocument::Json RandomDocument::Document(const Json& root,
                                                     const Json& schema,
                                                     int depth) {
  if (schema.is_boolean()) {
    return 1;
  }
  if (schema.contains("$ref")) {
    return Document(root, root["$defs"]["tree"], depth + 1);
  }
  if (schema.contains("allOf")) {
    if (schema["allOf"].size() == 1) {
      return Document(root, schema["allOf"][0], depth);
    }
    Json out = {{"a", random_.Int(3, 30)}};
    const Json& more = schema["allOf"][1]["properties"];
    if (Chance(50)) {
      out["b"] = Document(root, more["b"], depth + 1);
    }
    if (Chance(50)) {
      out["c"] = Document(root, more["c"], depth + 1);
    }
    return out;
  }
  for (const char* key : {"anyOf", "oneOf"}) {
    if (schema.contains(key)) {
      if (schema[key][0].contains("maximum")) {
        return Chance(50) ? Json(random_.Int(0, 11) * 5 + 1) : Json(random_.Int(13, 60) * 5);
      }
      const auto pick = random_.Int(0, static_cast<int64_t>(schema[key].size()) - 1);
      return Document(root, schema[key][static_cast<size_t>(pick)], depth);
    }
  }
  if (schema.contains("const")) {
    return schema["const"];
  }
  if (schema.contains("enum")) {
    return schema["enum"][static_cast<size_t>(
        random_.Int(0, static_cast<int64_t>(schema["enum"].size()) - 1))];
  }
  const std::string type = schema["type"].get<std::string>();
  if (type == "null") {
    return nullptr;
  }
  if (type == "boolean") {
    return Chance(50);
  }
  if (type == "string") {
    for (const auto& [patterns, key] :
         {std::pair(&RandomSchema::Patterns(), "pattern"), {&RandomSchema::Formats(), "format"}}) {
      for (const auto& [pattern, text] : *patterns) {
        if (schema.contains(key) && schema[key] == pattern) {
          return text;
        }
      }
    }
    const int64_t low = schema.value("minLength", int64_t{0});
    return Text(low, schema.value("maxLength", low + 20));
  }
  if (type == "integer" || type == "number") {
    return NumberDocument(schema);
  }
  if (type == "array") {
    Json out = Json::array();
    const size_t num_prefix = schema.contains("prefixItems") ? schema["prefixItems"].size() : 0;
    int64_t most = schema["maxItems"].get<int64_t>();
    if (schema["items"].is_boolean()) {
      most = std::min(most, static_cast<int64_t>(num_prefix));
    }
    const int64_t least = schema.value("minItems", int64_t{0});
    for (int64_t count = random_.Int(least, depth > 4 ? least : most); count > 0; --count) {
      out.push_back(
          Document(root,
                   out.size() < num_prefix ? schema["prefixItems"][out.size()] : schema["items"],
                   depth + 1));
    }
    return out;
  }
  return ObjectDocument(root, schema, depth);
}

inline RandomDocument::Json RandomDocument::NumberDocument(const Json& schema) {
  const double unit = schema["type"] == "integer" ? 1 : 0.125;
  const double step = schema.value("multipleOf", unit);
  const double low = schema.contains("minimum") ? schema["minimum"].get<double>()
                     : schema.contains("exclusiveMinimum")
                         ? schema["exclusiveMinimum"].get<double>() + unit
                         : static_cast<double>(random_.Int(-500, 500));
  const double high = schema.contains("maximum") ? schema["maximum"].get<double>()
                      : schema.contains("exclusiveMaximum")
                          ? schema["exclusiveMaximum"].get<double>() - unit
                          : low + 1000;
  const auto first = static_cast<int64_t>(std::ceil(low / step));
  const auto last = static_cast<int64_t>(std::floor(high / step));
  const double value = static_cast<double>(random_.Int(first, last)) * step;
  return std::floor(value) == value ? Json(static_cast<int64_t>(value)) : Json(value);
}

inline RandomDocument::Json RandomDocument::ObjectDocument(const Json& root,
                                                           const Json& schema,
                                                           int depth) {
  Json out = Json::object();
  const Json required = schema.value("required", Json::array());
  const bool has_patterns = schema.contains("patternProperties");
  for (const auto& [name, property] : schema["properties"].items()) {
    const bool is_required = std::find(required.begin(), required.end(), name) != required.end();
    if (is_required || Chance(depth > 4 ? 10 : 50)) {
      const bool by_pattern = has_patterns && property.is_boolean();
      out[name] = Document(
          root,
          by_pattern ? schema["patternProperties"][name[0] == 'n' ? "^n" : "_\\d$"] : property,
          depth + 1);
    }
  }
  if (has_patterns && Chance(50)) {
    out["nobody"] = Document(root, schema["patternProperties"]["^n"], depth + 1);
  }
  const Json additional = schema.value("additionalProperties", Json(true));
  if (additional.is_object() && Chance(50)) {
    out["other"] = Document(root, additional, depth + 1);
  }
  return out;
}

}  // namespace ringserve
