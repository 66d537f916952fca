// Any text may be asked for as a regular expression. What is accepted must lead to an end.
#include <string>
#include <vector>

#include "engine/base/check.h"
#include "tests/fuzz/constraint_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string pattern(reinterpret_cast<const char*>(data), size);
  const auto constraint = ringserve::FuzzCompiler().Regex(pattern);
  if (!constraint.ok()) {
    RS_CHECK(constraint.status().code() == absl::StatusCode::kInvalidArgument);
    RS_CHECK(!constraint.status().message().empty());
    return 0;
  }
  ringserve::FuzzWalk(**constraint, size);
  return 0;
}
