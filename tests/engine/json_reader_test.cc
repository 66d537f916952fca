#include "engine/base/json_reader.h"

#include <string>

#include <nlohmann/json.hpp>

#include "tests/support/catch.h"

namespace ringserve {
namespace {

std::string ErrorOf(const absl::Status& status) {
  return std::string(status.message());
}

template <typename T>
std::string ErrorOf(const absl::StatusOr<T>& result) {
  return ErrorOf(result.status());
}

TEST_CASE("ParseJson refuses what a lenient parser lets pass") {
  CHECK(ErrorOf(ParseJson(R"({"a": {"b": 1, "b": 2}})", "f")) == "f: a.b: duplicate key");
  CHECK(ErrorOf(ParseJson(R"([{"x": [1, {"y": 1, "y": 1}]}])", "f")).find("duplicate") !=
        std::string::npos);
  CHECK_FALSE(ParseJson(R"({"a": 1} x)", "f").ok());
  CHECK_FALSE(ParseJson("", "f").ok());
  CHECK_FALSE(ParseJson("{\"a\": \"\xff\"}", "f").ok());
  CHECK_FALSE(ParseJson("1e999", "f").ok());
  CHECK_FALSE(ParseJson(std::string(100000, '['), "f").ok());
  const std::string deep = std::string(64, '[') + std::string(64, ']');
  CHECK(ParseJson(deep, "f").ok());
  CHECK(ErrorOf(ParseJson("[" + deep + "]", "f")).find("deeper than 64") != std::string::npos);
}

TEST_CASE("JsonReader names the path of what is wrong") {
  const auto json = *ParseJson(
      R"({"rings": {"size": 8, "name": "x", "ratio": 3.7, "on": true, "big": 18446744073709551615},
          "extra": 1})",
      "f");
  auto root = *JsonReader::Create(json, "");
  auto rings = *root.Object("rings");
  CHECK(*rings.Int64("size") == 8);
  CHECK(ErrorOf(rings.Int64("size", {16, 1024})) == "rings.size: 8 is not in [16, 1024]");
  CHECK(ErrorOf(rings.Int64("ratio")) == "rings.ratio: 3.7 is not an integer");
  CHECK(ErrorOf(rings.Int64("on")) == "rings.on: true is not an integer");
  CHECK(ErrorOf(rings.Int64("none")) == "rings.none: missing");
  CHECK_FALSE(rings.Int64("big").ok());
  CHECK_FALSE(rings.Int32("big").ok());
  CHECK(*rings.Double("size") == 8.0);
  CHECK(*rings.Double("ratio") == 3.7);
  CHECK_FALSE(rings.Double("name").ok());
  CHECK(ErrorOf(rings.Enum("name", {"y", "z"})) == "rings.name: \"x\" is not one of: y, z");
  CHECK(*rings.Bool("on"));
  CHECK(rings.Finish().ok());
  CHECK(ErrorOf(root.Finish()) == "extra: unknown key");
  CHECK(ErrorOf(root.Object("extra")) == "extra: number is not an object");
}

TEST_CASE("ReadFile refuses what is not a readable file of sane size") {
  CHECK(ReadFile("no/such/file", 10).status().code() == absl::StatusCode::kNotFound);
  CHECK(ReadFile("/", 10).status().code() == absl::StatusCode::kInvalidArgument);
  const std::string self = std::string(RINGSERVE_SOURCE_DIR) + "/LICENSE";
  CHECK(ReadFile(self, 10).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(ReadFile(self, 1 << 20)->substr(0, 5) == "BSD 3");
}

TEST_CASE("ordered JSON keeps its keys' order and is as strict") {
  const auto json = ParseOrderedJson(R"({"b": 1, "a": {"d": [2.5, null], "c": "x"}})", "x");
  REQUIRE(json.ok());
  CHECK(json->dump() == R"({"b":1,"a":{"d":[2.5,null],"c":"x"}})");
  CHECK(ParseOrderedJson(R"({"a": {"b": 1, "b": 2}})", "x").status() ==
        absl::InvalidArgumentError("x: a.b: duplicate key"));
  CHECK_FALSE(ParseOrderedJson("[1] 2", "x").ok());
  std::string most = "{";
  for (int i = 0; i < 1024; ++i) {
    most += (i == 0 ? "\"k" : ", \"k") + std::to_string(i) + "\": {}";
  }
  CHECK(ParseOrderedJson(most + "}", "x").ok());
  CHECK(ParseOrderedJson(most + R"(, "last": 0})", "x").status() ==
        absl::InvalidArgumentError("x: last: more than 1024 keys"));
}

}  // namespace
}  // namespace ringserve
