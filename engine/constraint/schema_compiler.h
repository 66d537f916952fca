// Schemas to grammars. The texts are JSON: properties in the order in which the schema names them
// (those of `required` alone after them), then others; numbers, strings with a pattern or format,
// keys, enum and const spelled in one way (char_bytes.h, number_language.h); white space as
// JsonTerminals says. Every text is a document that the schema allows, and of each such document
// with its keys in that order, and its named keys counted where minProperties asks, a text is
// there up to what number_language.h, string_format.h and the depth of the stack bound.
#pragma once

#include <memory>
#include <string_view>

#include "engine/base/status.h"
#include "engine/constraint/budget.h"
#include "engine/constraint/grammar.h"
#include "engine/constraint/json_terminals.h"

namespace ringserve {

// INVALID_ARGUMENT: not a schema, one that is not supported or allows nothing, or too large; it
// names the place in the schema.
absl::StatusOr<std::shared_ptr<const Grammar>> CompileSchema(
    std::string_view schema,
    const JsonTerminals& terminals,
    const std::shared_ptr<const Vocabulary>& vocabulary,
    Budget* budget);

}  // namespace ringserve
