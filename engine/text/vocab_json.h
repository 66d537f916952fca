// The vocabulary of a model in tokenizer.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/json_reader.h"
#include "engine/base/status.h"
#include "engine/text/vocab_trie.h"

namespace ringserve {

inline constexpr int32_t kMaxTokenId = (1 << 22) - 1;

// The texts are views into the JSON document.
struct VocabJson {
  std::unordered_map<std::string_view, int32_t> ids;         // of equal texts the last counts
  std::vector<std::pair<std::string_view, int32_t>> tokens;  // no id twice

  // -1 if there is none.
  int32_t Find(std::string_view token) const {
    const auto found = ids.find(token);
    return found == ids.end() ? -1 : found->second;
  }

  std::vector<VocabTrie::Entry> Entries() const { return {tokens.begin(), tokens.end()}; }
};

// {"token": id, ...}: no id twice.
absl::StatusOr<VocabJson> ReadVocabObject(const nlohmann::json& value, const std::string& path);

// A text of the file as an error may show it: whatever it is, short and on one line.
std::string Quote(std::string_view text);

// The id of the token that `key` names, which must be in the vocabulary.
absl::StatusOr<int32_t> ReadTokenName(JsonReader* reader,
                                      std::string_view key,
                                      const VocabJson& vocab);

}  // namespace ringserve
