// The terminals of one grammar, each made once.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include <absl/container/flat_hash_map.h>
#include <fmt/format.h>

#include "engine/constraint/grammar.h"
#include "engine/constraint/json_terminals.h"

namespace ringserve {

class TerminalTable {
 public:
  TerminalTable(Grammar* grammar,
                const JsonTerminals& shared,
                std::shared_ptr<const Vocabulary> vocabulary)
      : grammar_(*grammar), shared_(shared), vocabulary_(std::move(vocabulary)) {}

  int32_t Literal(const std::string& text) {
    return Add(fmt::format("={}", text), LiteralsDfa({text}));
  }

  int32_t Whitespace() { return Share("whitespace", shared_.whitespace); }

  int32_t AnyString() { return Share("string", shared_.string); }

  // After its opening quote.
  int32_t CountedString(int32_t min, int32_t max) {
    const auto [found, is_new] = ids_.try_emplace(fmt::format("counted {} {}", min, max), 0);
    if (is_new) {
      found->second = grammar_.AddTerminal(
          {.index = shared_.counted_string, .min_units = min, .max_units = max});
    }
    return found->second;
  }

  // -1 if nothing was added under that key.
  int32_t Find(const std::string& key) const {
    const auto found = ids_.find(key);
    return found == ids_.end() ? -1 : found->second;
  }

  int32_t Add(const std::string& key, Dfa dfa) {
    const auto [found, is_new] = ids_.try_emplace(key, 0);
    if (is_new) {
      found->second = grammar_.AddTerminal(
          {.index = std::make_shared<TokenIndex>(
               vocabulary_, Spellable(std::move(dfa), *vocabulary_), /*counted=*/false)});
    }
    return found->second;
  }

 private:
  int32_t Share(const std::string& key, const std::shared_ptr<TokenIndex>& index) {
    const auto [found, is_new] = ids_.try_emplace(key, 0);
    if (is_new) {
      found->second = grammar_.AddTerminal({.index = index});
    }
    return found->second;
  }

  Grammar& grammar_;
  const JsonTerminals& shared_;
  const std::shared_ptr<const Vocabulary> vocabulary_;
  absl::flat_hash_map<std::string, int32_t> ids_;
};

}  // namespace ringserve
