// The values of JSON Schema's `format`, as patterns.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace ringserve {

// A pattern for whole strings (pattern_parser.h): each string that it matches is of that format,
// and so are the usual ones of the format. None for a format that is not known.
std::optional<std::string> FormatPattern(std::string_view format);

// The formats that are known, for errors.
std::string KnownFormats();

}  // namespace ringserve
