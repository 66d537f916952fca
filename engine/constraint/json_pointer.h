// Places in a JSON document, as URI fragments: "#", "#/properties/a~1b" (RFC 6901).
#pragma once

#include <string>
#include <string_view>

#include "engine/constraint/json_value.h"

namespace ringserve {

// A key as a part of a pointer.
std::string EscapedPointer(std::string_view key);

// Null if it is not there. Requires that `pointer` is "#" or begins with "#/".
const JsonValue* FindByPointer(const JsonValue& document, std::string_view pointer);

}  // namespace ringserve
