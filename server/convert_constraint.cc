#include "server/convert_constraint.h"

#include <string>
#include <vector>

#include <fmt/format.h>

namespace ringserve {
namespace {

// The status of a compilation, with the field in front of the place.
absl::StatusOr<std::shared_ptr<const Constraint>> Of(
    const char* field, absl::StatusOr<std::shared_ptr<const Constraint>> constraint) {
  if (!constraint.ok()) {
    return absl::InvalidArgumentError(
        fmt::format("constraint.{}: {}", field, std::string(constraint.status().message())));
  }
  return constraint;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Constraint>> ConvertConstraint(const v1::Constraint& in,
                                                                    const ServedModel& model) {
  if (model.constraints == nullptr) {
    return absl::UnimplementedError(
        fmt::format("constraint: {}", std::string(model.constraints_status.message())));
  }
  ConstraintCompiler& compiler = *model.constraints;
  switch (in.kind_case()) {
    case v1::Constraint::kJsonSchema:
      return Of("json_schema", compiler.JsonSchema(in.json_schema()));
    case v1::Constraint::kRegex:
      return Of("regex", compiler.Regex(in.regex()));
    case v1::Constraint::kChoices:
      return Of("choices.texts",
                compiler.Choices({in.choices().texts().begin(), in.choices().texts().end()}));
    case v1::Constraint::kJsonObject:
      return Of("json_object", compiler.JsonObject());
    case v1::Constraint::KIND_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(
      "constraint: not set; set json_schema, regex, choices or json_object");
}

}  // namespace ringserve
