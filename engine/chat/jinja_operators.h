// Python's operators between the values of a template.
#pragma once

#include <array>
#include <string_view>

#include "engine/base/status.h"
#include "engine/chat/jinja_interpreter.h"
#include "engine/chat/jinja_value.h"

namespace ringserve::jinja {

// + - * / // % **. TypeErrors in words; so is a result past 64 bits.
absl::StatusOr<Value> ApplyBinary(Interpreter& interpreter,
                                  std::string_view name,
                                  const Value& a,
                                  const Value& b);
absl::StatusOr<Value> ApplySign(bool negative, const Value& value);

// == != < <= > >= in, not in.
absl::StatusOr<bool> ApplyComparison(Interpreter& interpreter,
                                     std::string_view name,
                                     const Value& a,
                                     const Value& b);
absl::StatusOr<bool> Contains(Interpreter& interpreter, const Value& container, const Value& value);

// value[start:stop:step]; None where a bound is missing.
absl::StatusOr<Value> Slice(Interpreter& interpreter,
                            const Value& value,
                            const std::array<Value, 3>& bounds);

// Requires 0 <= index < text.length().
Value CharacterAt(const Text& text, int64_t index, Budget* budget);

}  // namespace ringserve::jinja
