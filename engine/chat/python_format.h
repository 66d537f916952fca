// Python's two ways to format: "..." % values and "...".format(values).
#pragma once

#include <string>
#include <string_view>

#include "engine/base/status.h"
#include "engine/chat/jinja_interpreter.h"
#include "engine/chat/jinja_value.h"

namespace ringserve::jinja {

// `values`: a tuple, a dict for %(name)s, or the one value. Conversions d i u x X o e E f F g G c s
// r %.
absl::StatusOr<std::string> PercentFormat(Budget* budget,
                                          std::string_view format,
                                          const Value& values);

// Fields {}, {0}, {name}, {a.b[c]}, conversions !s !r, and format specifications
// [[fill]align][sign][#][0][width][,][.precision][type] without fields inside them.
absl::StatusOr<std::string> BraceFormat(Interpreter& interpreter,
                                        std::string_view format,
                                        const Arguments& arguments);

// Rounded to the decimals as Python rounds: the exact value, ties to even. Negative: tens,
// hundreds.
double RoundDecimals(double value, int64_t decimals);

}  // namespace ringserve::jinja
