// Random JSON schemas of all kinds that constrained output knows. `size` bounds how deep they go.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/support/random.h"

namespace ringserve {

class RandomSchema {
 public:
  using Json = nlohmann::ordered_json;

  explicit RandomSchema(uint64_t seed) : random_(seed) {}

  Json Make(int size) {
    Json schema = Value(size);
    if (uses_tree_) {
      schema = {{"$defs", {{"tree", Tree()}}}, {"allOf", Json::array({schema})}};
    }
    return schema;
  }

  // Patterns, and a text for each; of ASCII, which std::regex knows.
  static const std::vector<std::pair<std::string, std::string>>& Patterns() {
    static const std::vector<std::pair<std::string, std::string>> patterns = {
        {"^[a-z]{2,8}$", "abcdef"},
        {"^(foo|bar)+[0-9]*$", "foobar12"},
        {"[A-Z]", "xxQyy"},
        {"^\\d{3}-\\d{4}$", "555-0123"},
        {"^[#-Z]{1,5}$", "A/B%"},
        {"^x?a[0-9 ]c$", "xa c"},
        {"^(a|b)*$", ""},
        {"^\\w+( \\w+){0,3}$", "once upon a time"}};
    return patterns;
  }

  static const std::vector<std::pair<std::string, std::string>>& Formats() {
    static const std::vector<std::pair<std::string, std::string>> formats = {
        {"date", "2024-02-29"},
        {"time", "23:59:58Z"},
        {"date-time", "1999-12-31T00:00:00+01:00"},
        {"uuid", "123e4567-e89b-12d3-a456-426614174000"},
        {"email", "a.b@example.com"},
        {"ipv4", "192.168.0.255"},
        {"ipv6", "2001:db8::1"},
        {"uri", "https://example.com/a?b=c#d"},
        {"hostname", "a-b.example.org"}};
    return formats;
  }

 private:
  bool Chance(int percent) { return random_.Int(1, 100) <= percent; }

  template <typename T>
  const T& Pick(const std::vector<T>& from) {
    return from[static_cast<size_t>(random_.Int(0, static_cast<int64_t>(from.size()) - 1))];
  }

  static Json Tree() {
    return {{"type", "object"},
            {"properties",
             {{"name", {{"type", "string"}, {"maxLength", 5}}},
              {"children",
               {{"type", "array"}, {"maxItems", 2}, {"items", {{"$ref", "#/$defs/tree"}}}}}}},
            {"required", {"name"}},
            {"additionalProperties", false}};
  }

  Json Value(int size) {
    const int64_t kind = random_.Int(0, size > 0 ? 11 : 5);
    switch (kind) {
      case 0:
        return Integer();
      case 1:
        return Number();
      case 2:
      case 3:
        return String();
      case 4:
        return {{"type", Pick<std::string>({"boolean", "null"})}};
      case 5:
        return Enum();
      case 6:
      case 7:
        return Array(size - 1);
      case 8:
      case 9:
        return Object(size - 1);
      case 10:
        return Combination(size - 1);
      default:
        uses_tree_ = true;
        return {{"$ref", "#/$defs/tree"}};
    }
  }

  Json Integer() {
    Json schema = {{"type", "integer"}};
    const int64_t low = random_.Int(-2000, 2000);
    if (Chance(60)) {
      schema[Chance(70) ? "minimum" : "exclusiveMinimum"] = low;
      if (Chance(70)) {
        schema[Chance(70) ? "maximum" : "exclusiveMaximum"] = low + random_.Int(20, 3000);
      }
    }
    if (Chance(20)) {
      schema["multipleOf"] = random_.Int(2, 17);
    }
    return schema;
  }

  Json Number() {
    Json schema = {{"type", "number"}};
    if (Chance(60)) {
      const double low = static_cast<double>(random_.Int(-4000, 4000)) / 8;
      schema[Chance(50) ? "minimum" : "exclusiveMinimum"] = low;
      if (Chance(70)) {
        schema[Chance(50) ? "maximum" : "exclusiveMaximum"] =
            low + static_cast<double>(random_.Int(8, 800)) / 8;
      }
    }
    if (Chance(20)) {
      schema["multipleOf"] = Pick<double>({0.5, 0.25, 1, 2.5});
    }
    return schema;
  }

  Json String() {
    Json schema = {{"type", "string"}};
    if (Chance(25)) {
      schema["pattern"] = Pick(Patterns()).first;
    } else if (Chance(25)) {
      schema["format"] = Pick(Formats()).first;
    } else {
      const int64_t low = random_.Int(0, 6);
      if (Chance(50)) {
        schema["minLength"] = low;
      }
      if (Chance(80)) {
        schema["maxLength"] = low + random_.Int(0, 30);
      }
    }
    return schema;
  }

  Json Enum() {
    const std::vector<Json> values = {"red",
                                      "green",
                                      "blue",
                                      "a \"quoted\" one",
                                      "line\nline",
                                      "gr\xc3\xbc\xc3\x9f",
                                      1,
                                      -7,
                                      2.5,
                                      true,
                                      nullptr,
                                      Json::array({1, "x"}),
                                      Json({{"k", 1}, {"l", Json::array()}}),
                                      ""};
    if (Chance(30)) {
      return {{"const", Pick(values)}};
    }
    Json schema = {{"enum", Json::array()}};
    for (int64_t i = random_.Int(1, 5); i > 0; --i) {
      schema["enum"].push_back(Pick(values));
    }
    return schema;
  }

  Json Array(int size) {
    Json schema = {{"type", "array"}};
    int64_t num_prefix = 0;
    if (Chance(30)) {
      num_prefix = random_.Int(1, 3);
      schema["prefixItems"] = Json::array();
      for (int64_t i = 0; i < num_prefix; ++i) {
        schema["prefixItems"].push_back(Value(size));
      }
    }
    schema["items"] = num_prefix > 0 && Chance(40) ? Json(false) : Value(size);
    const int64_t low = random_.Int(0, num_prefix > 0 ? num_prefix : 3);
    if (Chance(60)) {
      schema["minItems"] = low;
    }
    schema["maxItems"] = low + random_.Int(0, 4);
    return schema;
  }

  Json Object(int size) {
    Json schema = {{"type", "object"}, {"properties", Json::object()}};
    const std::vector<std::string> names = {"id",
                                            "name",
                                            "na",
                                            "x_1",
                                            "a\"b",
                                            "t\xc3\xa4g",
                                            "value",
                                            "v",
                                            "kind",
                                            "long property name"};
    Json required = Json::array();
    for (int64_t i = random_.Int(0, 5); i > 0; --i) {
      const std::string& name = Pick(names);
      if (!schema["properties"].contains(name)) {
        schema["properties"][name] = Value(size);
        if (Chance(50)) {
          required.push_back(name);
        }
      }
    }
    if (!required.empty()) {
      schema["required"] = required;
    }
    if (Chance(20)) {
      schema["patternProperties"] = {{"^n", Scalar()}, {"_\\d$", Scalar()}};
      // What the names above meet must allow something.
      for (const auto& [name, property] : schema["properties"].items()) {
        if (name[0] == 'n' || name == "x_1") {
          schema["properties"][name] = true;
        }
      }
    }
    if (Chance(70)) {
      schema["additionalProperties"] = Chance(60) ? Json(false) : Scalar();
    } else {
      schema["maxProperties"] = static_cast<int64_t>(schema["properties"].size()) + 1;
    }
    return schema;
  }

  // A schema whose texts are short.
  Json Scalar() {
    return Chance(50) ? Json({{"type", "integer"}, {"minimum", 0}, {"maximum", 99}})
                      : Json({{"type", "string"}, {"maxLength", 3}});
  }

  Json Combination(int size) {
    if (Chance(40)) {
      return {{"anyOf", Json::array({Value(size), Value(size)})}};
    }
    if (Chance(50)) {
      Json one_of = Json::array();
      for (const std::string kind : {"cat", "dog", "fish"}) {
        one_of.push_back({{"type", "object"},
                          {"properties", {{"kind", {{"const", kind}}}, {kind, Value(size)}}},
                          {"required", {"kind"}},
                          {"additionalProperties", false}});
      }
      return {{"oneOf", one_of}};
    }
    if (Chance(40)) {
      return {{"oneOf",
               Json::array(
                   {{{"type", "integer"}, {"minimum", 0}, {"maximum", 60}},
                    {{"type", "integer"}, {"multipleOf", 5}, {"minimum", -50}, {"maximum", 300}},
                    {{"type", "string"}, {"maxLength", 4}}})}};
    }
    return {{"allOf",
             Json::array(
                 {{{"type", "object"},
                   {"properties", {{"a", {{"type", "integer"}, {"minimum", 3}}}}},
                   {"required", {"a"}}},
                  {{"properties", {{"a", {{"maximum", 30}}}, {"b", Scalar()}, {"c", Value(size)}}},
                   {"maxProperties", 3}}})}};
  }

  Random random_;
  bool uses_tree_ = false;
};

}  // namespace ringserve
