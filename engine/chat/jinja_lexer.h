// Cuts the source of a Jinja template into tokens, with trim_blocks and lstrip_blocks set, as
// chat templates are written for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/status.h"

namespace ringserve::jinja {

struct Token {
  enum class Type {
    kText,           // outside of tags
    kVariableBegin,  // {{
    kVariableEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kString,  // text: without quotes, escapes resolved
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };

  Type type = Type::kEnd;
  std::string text;
  int64_t integer = 0;
  double number = 0;
  int32_t line = 0;  // from 1

  bool IsOperator(std::string_view what) const { return type == Type::kOperator && text == what; }

  bool IsName(std::string_view what) const { return type == Type::kName && text == what; }
};

// INVALID_ARGUMENT with "line N: why". The last token is kEnd.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

absl::Status ErrorAt(int32_t line, std::string_view why);

}  // namespace ringserve::jinja
