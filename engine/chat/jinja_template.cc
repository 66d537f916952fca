#include "engine/chat/jinja_template.h"

#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/chat/jinja_interpreter.h"
#include "engine/chat/jinja_json.h"
#include "engine/chat/jinja_parser.h"
#include "engine/text/utf8.h"

namespace ringserve::jinja {
namespace {

constexpr size_t kMaxSourceBytes = size_t{1} << 20;

}  // namespace

struct Template::Parsed {
  Body body;
};

Template::Template(std::unique_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}

Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

absl::StatusOr<Template> Template::Parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return absl::InvalidArgumentError(
        fmt::format("{} bytes are more than {}", source.size(), kMaxSourceBytes));
  }
  if (ValidUtf8Prefix(source) != source.size()) {
    return absl::InvalidArgumentError("not UTF-8");
  }
  ASSIGN_OR_RETURN(Body body, ParseTemplate(source));
  return Template(std::make_unique<const Parsed>(Parsed{std::move(body)}));
}

absl::StatusOr<std::string> Template::Render(const nlohmann::ordered_json& context,
                                             const RenderOptions& options) const {
  if (!context.is_object()) {
    return absl::InvalidArgumentError("the context must be an object");
  }
  Interpreter interpreter(options.limits, options.now, options.zone);
  Dict variables;
  for (const auto& [name, value] : context.items()) {
    variables.SetString(name, FromJson(value, interpreter.budget()));
  }
  return interpreter.Run(parsed_->body, variables);
}

}  // namespace ringserve::jinja
