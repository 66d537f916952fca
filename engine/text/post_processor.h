// The post_processor of tokenizer.json: the special tokens around a text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/problems.h"

namespace ringserve {

struct PostProcessor {
  std::vector<int32_t> prefix, suffix;

  // For one text, not a pair of them; null adds nothing. What is wrong is added to `problems`, by
  // its path; the result is then of no use.
  static PostProcessor FromJson(const nlohmann::json& value,
                                const std::string& path,
                                Problems* problems);
};

}  // namespace ringserve
