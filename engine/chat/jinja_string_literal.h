// The escapes of a string literal, as Python's unicode-escape codec reads them.
#pragma once

#include <string>
#include <string_view>

#include "engine/base/status.h"

namespace ringserve::jinja {

// `text` is what stands between the quotes.
absl::StatusOr<std::string> UnescapeString(std::string_view text);

}  // namespace ringserve::jinja
