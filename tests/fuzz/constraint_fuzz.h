// What the fuzz targets of constraints share: a small vocabulary, and walks over masks.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/constraint/constraint.h"

namespace ringserve {

inline const std::shared_ptr<const Vocabulary>& FuzzVocabulary() {
  static const std::shared_ptr<const Vocabulary> vocabulary = [] {
    std::vector<std::string> bytes = {""};
    for (int byte = 0; byte < 256; ++byte) {
      bytes.emplace_back(1, static_cast<char>(byte));
    }
    for (const char* piece : {"{\"",
                              "\":",
                              "\", \"",
                              "\"}",
                              "}}",
                              "],",
                              "12",
                              "true",
                              "null",
                              "\\u00",
                              "\n  ",
                              "ab",
                              "\xc3\xa9",
                              "\xe2\x82",
                              "e1",
                              "0.5",
                              "-0"}) {
      bytes.emplace_back(piece);
    }
    auto made = Vocabulary::Create(bytes);
    RS_CHECK(made.ok());
    return *made;
  }();
  return vocabulary;
}

inline ConstraintCompiler& FuzzCompiler() {
  static ConstraintCompiler compiler(FuzzVocabulary());
  return compiler;
}

// Takes allowed tokens at random: the text, and whether it ended. Somewhere some token must be
// allowed or the end, and an allowed token must be taken.
inline std::pair<std::string, bool> FuzzWalk(const Constraint& constraint, uint64_t seed) {
  const auto matcher = constraint.Begin();
  std::string text;
  for (int step = 0; step < 200; ++step) {
    std::vector<int32_t> ids;
    const std::span<const uint64_t> mask = matcher->Allowed();
    for (size_t word = 0; word < mask.size(); ++word) {
      for (uint64_t bits = mask[word]; bits != 0; bits &= bits - 1) {
        ids.push_back(static_cast<int32_t>(word * 64) + std::countr_zero(bits));
      }
    }
    const bool may_end = matcher->MayEnd();
    RS_CHECK(may_end || !ids.empty());
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    if (ids.empty() || (may_end && (seed >> 33) % 3 == 0)) {
      return {text, true};
    }
    const int32_t id = ids[(seed >> 35) % ids.size()];
    RS_CHECK(matcher->Take(id));
    text += FuzzVocabulary()->bytes(id);
    if ((seed >> 60) == 0) {
      matcher->Undo(1);
      text.resize(text.size() - FuzzVocabulary()->bytes(id).size());
    }
  }
  return {text, false};
}

}  // namespace ringserve
