// A Jinja template, as Hugging Face's transformers renders chat templates: an immutable sandbox,
// trim_blocks, lstrip_blocks, loop controls, the generation tag, and tojson as Python's json.dumps
// without escapes for what is not ASCII. What no chat template uses is refused by name: include,
// import, extends, block.
//
// Written here because no distribution has a C++ library for it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <absl/time/time.h>
#include <nlohmann/json_fwd.hpp>

#include "engine/base/status.h"
#include "engine/chat/jinja_budget.h"

namespace ringserve::jinja {

struct RenderOptions {
  Limits limits;
  // What strftime_now tells.
  absl::Time now;
  absl::TimeZone zone;
};

// Immutable: any number of threads may render at a time.
class Template {
 public:
  // At most 1 MiB of UTF-8. INVALID_ARGUMENT with "line N: why".
  static absl::StatusOr<Template> Parse(std::string_view source);

  ~Template();
  Template(const Template&) = delete;
  Template& operator=(const Template&) = delete;
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;

  // `context` is an object: the variables, in the order in which templates iterate over objects.
  // INVALID_ARGUMENT with "line N: why" if the template fails on it or raises an exception,
  // RESOURCE_EXHAUSTED past a limit.
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& context,
                                     const RenderOptions& options) const;

 private:
  struct Parsed;
  explicit Template(std::unique_ptr<const Parsed> parsed);

  std::unique_ptr<const Parsed> parsed_;
};

}  // namespace ringserve::jinja
