// What tests of constraints share: vocabularies, and following texts and masks.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/constraint/constraint.h"
#include "engine/text/tokenizer.h"
#include "tests/support/catch.h"
#include "tests/support/random.h"

namespace ringserve {

inline std::shared_ptr<const Vocabulary> FairytaleVocabulary() {
  static const std::shared_ptr<const Vocabulary> vocabulary = [] {
    const auto tokenizer = Tokenizer::Load(RINGSERVE_SOURCE_DIR "/models/fairytale-5m");
    REQUIRE(tokenizer.ok());
    auto made = Vocabulary::Of(**tokenizer, (*tokenizer)->vocab_size());
    REQUIRE(made.ok());
    return *made;
  }();
  return vocabulary;
}

// All bytes, pieces that run over the borders of JSON's tokens, some twice, and a special token.
inline std::shared_ptr<const Vocabulary> SmallVocabulary() {
  std::vector<std::string> bytes = {""};
  for (int byte = 0; byte < 256; ++byte) {
    bytes.emplace_back(1, static_cast<char>(byte));
  }
  for (const char* piece : {"{\"",        "\":",      "\": ",
                            "\": \"",     "\",\"",    "\", \"",
                            "\"}",        "\"]",      "}}",
                            "]}",         "},{",      "[{\"",
                            "[]",         "{}",       "[[",
                            "],",         "1,",       "12",
                            "123",        "0.5",      "-1",
                            "e1",         "true",     "false",
                            "null",       "tru",      "ll",
                            "true,",      "\\u",      "\\u00",
                            "\\\"",       "\\n",      "\n  ",
                            "\n    ",     "  ",       "name",
                            "name\":",    "id\"",     "\"id\":",
                            "kind\":\"",  "cat",      "dog\",",
                            "abc",        "foo",      "bar",
                            "foobar",     "A",        "A",
                            "\xc3\xa9",   "\xe2\x82", "\xf0\x9f\x98\x80",
                            "\x98\x80\"", "red\"",    "-02-",
                            "2024-",      "00:00",    "example.com",
                            " upon a ",   "\":{\"",   "\":[",
                            "\":1",       "1}",       "1]",
                            "null}",      ",\n",      "{\n",
                            ", "}) {
    bytes.emplace_back(piece);
  }
  auto made = Vocabulary::Create(bytes);
  REQUIRE(made.ok());
  return *made;
}

inline bool IsSet(std::span<const uint64_t> mask, int32_t id) {
  return (mask[static_cast<size_t>(id) / 64] >> (static_cast<size_t>(id) % 64) & 1) != 0;
}

// Whether tokens of single bytes lead through `text`, each allowed, to where it may end.
inline bool Accepts(const Constraint& constraint,
                    const Vocabulary& vocabulary,
                    std::string_view text) {
  const auto matcher = constraint.Begin();
  for (const char byte : text) {
    bool taken = false;
    for (int32_t id = 0; id < vocabulary.size() && !taken; ++id) {
      if (vocabulary.bytes(id) == std::string_view(&byte, 1)) {
        const bool allowed = IsSet(matcher->Allowed(), id);
        taken = matcher->Take(id);
        CHECK(taken == allowed);
        if (!taken) {
          return false;
        }
      }
    }
    REQUIRE(taken);
  }
  return matcher->MayEnd();
}

}  // namespace ringserve
