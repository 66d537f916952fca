// The added_tokens of tokenizer.json.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/problems.h"
#include "engine/text/added_tokens.h"
#include "engine/text/vocab_json.h"

namespace ringserve {

// What is wrong is added to `problems`, by its path; the result is then of no use.
std::vector<AddedToken> ReadAddedTokens(const nlohmann::json& value,
                                        const std::string& path,
                                        const VocabJson& vocab,
                                        Problems* problems);

}  // namespace ringserve
