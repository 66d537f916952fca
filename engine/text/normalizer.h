// The normalizer of tokenizer.json: rewrites the text before it is cut into words.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/problems.h"
#include "engine/base/status.h"
#include "engine/text/normalized_text.h"
#include "engine/text/regex.h"

namespace ringserve {

class NormalizerStep {
 public:
  virtual ~NormalizerStep() = default;
  // RESOURCE_EXHAUSTED if a pattern gives up (regex.h), or if the text grows beyond
  // MaxNormalizedBytes of what it is.
  virtual absl::Status Apply(NormalizedText* text, RegexScratch* scratch) const = 0;
};

class Normalizer {
 public:
  // Any of the library's types; null does nothing. What is wrong is added to `problems`, by its
  // path; the result is then of no use.
  static Normalizer FromJson(const nlohmann::json& value,
                             const std::string& path,
                             Problems* problems);

  bool empty() const { return steps_.empty(); }

  // RESOURCE_EXHAUSTED as above, where the limit holds for all steps together.
  absl::Status Apply(NormalizedText* text, RegexScratch* scratch) const;

 private:
  void Add(const nlohmann::json& value, const std::string& path, int depth, Problems* problems);

  std::vector<std::unique_ptr<const NormalizerStep>> steps_;
};

}  // namespace ringserve
