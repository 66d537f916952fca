#include "engine/text/pattern.h"

#include <utility>

#include <fmt/format.h>

#include "engine/base/json_reader.h"

namespace ringserve {

absl::StatusOr<Pattern> Pattern::FromJson(const nlohmann::json& value, const std::string& path) {
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(value, path));
  Pattern pattern;
  if (reader.Has("String")) {
    ASSIGN_OR_RETURN(pattern.literal_, reader.String("String"));
    if (pattern.literal_.empty()) {
      return reader.Error("String", "empty");
    }
  } else {
    ASSIGN_OR_RETURN(const std::string regex, reader.String("Regex"));
    ASSIGN_OR_RETURN(pattern, Compile(regex, path + ".Regex"));
  }
  RETURN_IF_ERROR(reader.Finish());
  return pattern;
}

Pattern Pattern::Literal(std::string literal) {
  Pattern pattern;
  pattern.literal_ = std::move(literal);
  return pattern;
}

absl::StatusOr<Pattern> Pattern::Compile(std::string_view regex, const std::string& path) {
  auto compiled = Regex::Compile(regex);
  if (!compiled.ok()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {}", path, std::string(compiled.status().message())));
  }
  Pattern pattern;
  pattern.regex_.push_back(*std::move(compiled));
  return pattern;
}

absl::Status Pattern::FindAll(std::string_view text,
                              RegexScratch* scratch,
                              std::vector<Regex::Match>* matches) const {
  matches->clear();
  if (text.empty()) {
    return absl::OkStatus();
  }
  if (!regex_.empty()) {
    return regex_[0].FindAll(text, scratch, matches);
  }
  for (size_t at = text.find(literal_); at != std::string_view::npos;
       at = text.find(literal_, at + literal_.size())) {
    matches->push_back({at, at + literal_.size()});
  }
  return absl::OkStatus();
}

}  // namespace ringserve
