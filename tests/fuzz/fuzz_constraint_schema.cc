// Any text may be asked for as a JSON schema. What is accepted must lead to an end, in JSON.
#include <string>

#include <nlohmann/json.hpp>

#include "engine/base/check.h"
#include "tests/fuzz/constraint_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string schema(reinterpret_cast<const char*>(data), size);
  const auto constraint = ringserve::FuzzCompiler().JsonSchema(schema);
  if (!constraint.ok()) {
    RS_CHECK(constraint.status().code() == absl::StatusCode::kInvalidArgument);
    RS_CHECK(!constraint.status().message().empty());
    return 0;
  }
  const auto [text, ended] = ringserve::FuzzWalk(**constraint, size);
  RS_CHECK(!ended || nlohmann::json::accept(text));
  return 0;
}
