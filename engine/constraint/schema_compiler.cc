#include "engine/constraint/schema_compiler.h"

#include <utility>

#include <fmt/format.h>

#include "engine/constraint/schema_emitter.h"

namespace ringserve {

absl::StatusOr<std::shared_ptr<const Grammar>> CompileSchema(
    std::string_view schema,
    const JsonTerminals& terminals,
    const std::shared_ptr<const Vocabulary>& vocabulary,
    Budget* budget) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Schema> parsed, Schema::Parse(schema, budget));
  auto grammar = std::make_shared<Grammar>();
  TerminalTable table(grammar.get(), terminals, vocabulary);
  SchemaRules rules(*parsed, budget);
  SchemaEmitter emitter(&rules, grammar.get(), &table);
  const int32_t start = emitter.RuleOf({parsed->root()});
  RETURN_IF_ERROR(emitter.EmitAll());
  if (!grammar->Finish(start)) {
    return absl::InvalidArgumentError("#: no value satisfies the schema");
  }
  if (grammar->is_too_wide()) {
    return absl::InvalidArgumentError(fmt::format(
        "#: more than {} properties or alternatives may begin at one place", Grammar::kMaxWidth));
  }
  return std::shared_ptr<const Grammar>(std::move(grammar));
}

}  // namespace ringserve
