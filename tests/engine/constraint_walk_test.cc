// Random schemas: what masks let through satisfies the schema, and what satisfies it they let
// through, however it is cut into tokens.
#include <algorithm>
#include <bit>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/support/catch.h"
#include "tests/support/constraint_case.h"
#include "tests/support/json_schema_validator.h"
#include "tests/support/random_document.h"
#include "tests/support/random_schema.h"

namespace ringserve {
namespace {

using Json = nlohmann::ordered_json;

struct Setting {
  std::shared_ptr<const Vocabulary> vocabulary;
  std::unique_ptr<ConstraintCompiler> compiler;
};

std::vector<Setting>& Settings() {
  static std::vector<Setting> settings = [] {
    std::vector<Setting> all;
    for (const auto& vocabulary : {SmallVocabulary(), FairytaleVocabulary()}) {
      all.push_back({vocabulary, std::make_unique<ConstraintCompiler>(vocabulary)});
    }
    return all;
  }();
  return settings;
}

std::vector<int32_t> AllowedIds(std::span<const uint64_t> mask) {
  std::vector<int32_t> ids;
  for (size_t word = 0; word < mask.size(); ++word) {
    for (uint64_t bits = mask[word]; bits != 0; bits &= bits - 1) {
      ids.push_back(static_cast<int32_t>(word * 64) + std::countr_zero(bits));
    }
  }
  return ids;
}

// Each bit says what taking the token would.
void CheckMask(TokenConstraint& matcher, const Vocabulary& vocabulary) {
  const std::span<const uint64_t> mask = matcher.Allowed();
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const bool taken = matcher.Take(id);
    if (taken) {
      matcher.Undo(1);
    }
    if (taken != IsSet(mask, id)) {
      FAIL_CHECK("token " << id << " '" << std::string(vocabulary.bytes(id)) << "' "
                          << (taken ? "is missing" : "is too much"));
    }
  }
}

// Ends as soon as it may once `patience` tokens are made; none if chance finds no end.
std::optional<std::string> Walk(TokenConstraint& matcher,
                                const Vocabulary& vocabulary,
                                Random& random,
                                int patience,
                                int num_checks) {
  std::string text;
  for (int step = 0;; ++step) {
    const std::vector<int32_t> ids = AllowedIds(matcher.Allowed());
    const bool may_end = matcher.MayEnd();
    REQUIRE((may_end || !ids.empty()));
    if (ids.empty() || (may_end && (step > patience || random.Int(0, 3) == 0))) {
      return text;
    }
    if (num_checks > 0 && random.Int(0, 4) == 0) {
      CheckMask(matcher, vocabulary);
      --num_checks;
    }
    int32_t id = ids[static_cast<size_t>(random.Int(0, static_cast<int64_t>(ids.size()) - 1))];
    // Towards an end: mostly a closing character where one is allowed.
    if (step > patience && random.Int(0, 2) > 0) {
      for (const char* closing : {"]", "}", "\""}) {
        for (const int32_t other : ids) {
          id = vocabulary.bytes(other) == closing ? other : id;
        }
      }
    }
    REQUIRE(matcher.Take(id));
    text += vocabulary.bytes(id);
    if (step > patience + 2000) {
      return std::nullopt;
    }
  }
}

// As texts have it: with white space at random, keys as they come.
std::string Written(const Json& value, Random& random) {
  const auto space = [&random] {
    static const std::vector<std::string> spaces = {"", " ", "\n", "\n  ", "\n\t\t"};
    return spaces[static_cast<size_t>(std::max<int64_t>(random.Int(-4, 4), 0))];
  };
  if (!value.is_structured() || value.empty()) {
    return value.dump();
  }
  std::string text;
  for (const auto& [key, item] : value.items()) {
    if (!text.empty()) {
      text += fmt::format(",{}", space());
    }
    if (value.is_object()) {
      text += fmt::format("{}:{}", Json(key).dump(), space());
    }
    text += Written(item, random);
  }
  const char* const brackets = value.is_array() ? "[]" : "{}";
  return fmt::format("{}{}{}{}{}", brackets[0], space(), text, space(), brackets[1]);
}

void CheckAccepted(const Constraint& constraint,
                   const Vocabulary& vocabulary,
                   const std::string& text,
                   Random& random) {
  const auto matcher = constraint.Begin();
  for (size_t at = 0; at < text.size();) {
    std::vector<int32_t> fitting;
    for (int32_t id = 0; id < vocabulary.size(); ++id) {
      const std::string_view bytes = vocabulary.bytes(id);
      if (!bytes.empty() && std::string_view(text).substr(at, bytes.size()) == bytes) {
        fitting.push_back(id);
      }
    }
    const auto mask = matcher->Allowed();
    for (const int32_t id : fitting) {
      if (!IsSet(mask, id)) {
        FAIL("'" << std::string(vocabulary.bytes(id)) << "' is not allowed after "
                 << text.substr(0, at) << " of " << text);
      }
    }
    const auto pick = random.Int(0, static_cast<int64_t>(fitting.size()) - 1);
    const int32_t id = fitting[static_cast<size_t>(pick)];
    REQUIRE(matcher->Take(id));
    at += vocabulary.bytes(id).size();
  }
  INFO(text);
  CHECK(matcher->MayEnd());
}

}  // namespace

TEST_CASE("random walks over masks end in documents of the schema") {
  int num_endless = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const Json schema = RandomSchema(seed).Make(static_cast<int>(seed % 4));
    Setting& setting = Settings()[seed % 2];
    const auto constraint = setting.compiler->JsonSchema(schema.dump());
    INFO("seed " << seed << ": " << schema.dump() << " " << constraint.status());
    REQUIRE(constraint.ok());
    Random random(seed);
    for (int round = 0; round < 3; ++round) {
      const auto matcher = (*constraint)->Begin();
      const auto text = Walk(*matcher, *setting.vocabulary, random, 40, round == 0 ? 3 : 0);
      if (!text.has_value()) {
        ++num_endless;
        continue;
      }
      INFO(*text);
      const Json document = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
      REQUIRE_FALSE(document.is_discarded());
      CHECK(JsonSchemaValidator(schema).Allows(document));
    }
  }
  CHECK(num_endless < 30);  // of 1,200
}

TEST_CASE("documents of a schema are let through, however they are cut into tokens") {
  for (uint64_t seed = 1000; seed < 1400; ++seed) {
    const Json schema = RandomSchema(seed).Make(static_cast<int>(seed % 4));
    RandomDocument source(seed);
    Setting& setting = Settings()[seed % 2];
    const auto constraint = setting.compiler->JsonSchema(schema.dump());
    INFO("seed " << seed << ": " << schema.dump() << " " << constraint.status());
    REQUIRE(constraint.ok());
    Random random(seed);
    for (int round = 0; round < 3; ++round) {
      const Json document = source.Make(schema);
      if (JsonSchemaValidator(schema).Allows(document)) {
        CheckAccepted(**constraint, *setting.vocabulary, Written(document, random), random);
      }
    }
  }
}

}  // namespace ringserve
