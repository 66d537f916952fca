#include "engine/text/tokenizer.h"

#include <random>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "tests/support/catch.h"

namespace ringserve {
namespace {

using nlohmann::json;

const std::string kModelDir = std::string(RINGSERVE_SOURCE_DIR) + "/models/fairytale-5m";

const Tokenizer& Fairytale() {
  static const auto tokenizer = Tokenizer::Load(kModelDir);
  REQUIRE(tokenizer.ok());
  return **tokenizer;
}

json FixtureJson(const std::string& name) {
  return json::parse(
      *ReadFile(std::string(RINGSERVE_SOURCE_DIR) + "/tests/fixtures/" + name, 1 << 26));
}

TEST_CASE("Encode and Decode are Hugging Face's") {
  const json cases = FixtureJson("fairytale-5m/tokenizer_cases.json");
  REQUIRE(cases.size() > 10);
  for (const json& c : cases) {
    INFO(c["text"]);
    CHECK(*Fairytale().Encode(c["text"].get<std::string>(), {}) ==
          c["ids"].get<std::vector<int32_t>>());
    CHECK(*Fairytale().Decode(c["ids"].get<std::vector<int32_t>>(), false) ==
          c["decoded"].get<std::string>());
  }
}

}  // namespace
}  // namespace ringserve
