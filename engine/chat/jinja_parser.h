// The statements of a template.
#pragma once

#include <string_view>

#include "engine/base/status.h"
#include "engine/chat/jinja_ast.h"

namespace ringserve::jinja {

// INVALID_ARGUMENT with "line N: why": the template is broken, or uses what chat templates have no
// use for (include, import, extends).
absl::StatusOr<Body> ParseTemplate(std::string_view source);

}  // namespace ringserve::jinja
