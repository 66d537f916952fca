// The patterns of tokenizer.json, {"String": ...} or {"Regex": ...}, and their matches.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/status.h"
#include "engine/text/regex.h"

namespace ringserve {

class Pattern {
 public:
  static absl::StatusOr<Pattern> FromJson(const nlohmann::json& value, const std::string& path);
  static Pattern Literal(std::string literal);  // not empty
  // `path` is for the error.
  static absl::StatusOr<Pattern> Compile(std::string_view regex, const std::string& path);

  // Replaces *matches by all matches from left to right. An empty text has none, as in the library.
  absl::Status FindAll(std::string_view text,
                       RegexScratch* scratch,
                       std::vector<Regex::Match>* matches) const;

  bool is_literal() const { return regex_.empty(); }

  const std::string& literal() const { return literal_; }

 private:
  std::vector<Regex> regex_;  // one, or none: `literal_`
  std::string literal_;
};

}  // namespace ringserve
