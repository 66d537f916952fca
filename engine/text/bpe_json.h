// The "model" of tokenizer.json, of type BPE.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "engine/base/status.h"
#include "engine/text/bpe.h"

namespace ringserve {

inline constexpr int32_t kMaxTokenId = (1 << 22) - 1;

struct BpeJson {
  BpeModel model;
  // Tokens as they are written, and their ids, which are distinct. Views into the JSON document.
  std::unordered_map<std::string_view, int32_t> vocab;
};

absl::StatusOr<BpeJson> ParseBpeJson(const nlohmann::json& value, const std::string& path);

}  // namespace ringserve
