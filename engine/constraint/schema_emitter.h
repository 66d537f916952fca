// Writes the rules of values into a grammar (schema_compiler.h): one rule for each conjunction of
// schemas that occurs, made when it is first called.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include "engine/base/status.h"
#include "engine/constraint/grammar.h"
#include "engine/constraint/schema_expand.h"
#include "engine/constraint/schema_merge.h"
#include "engine/constraint/terminal_table.h"

namespace ringserve {

class SchemaEmitter {
 public:
  SchemaEmitter(SchemaRules* rules, Grammar* grammar, TerminalTable* terminals)
      : rules_(*rules), expander_(rules), grammar_(*grammar), terminals_(*terminals) {}

  // The rule of a value that all nodes allow; its body is there after EmitAll.
  int32_t RuleOf(const Conjunction& nodes);
  absl::Status EmitAll();

 private:
  using Targets = std::vector<int32_t>;

  absl::Status EmitRule(const Conjunction& nodes, int32_t rule);
  absl::Status EmitAlternative(const SchemaAlternative& alternative, Targets* targets);

  // Each adds the ways to write a value of the kind, all of which end in Return.
  absl::Status EmitValues(const SchemaAlternative& alternative,
                          const MergedRules& rules,
                          Targets* targets);
  absl::Status EmitConstants(const SchemaAlternative& alternative,
                             const MergedRules& rules,
                             Targets* targets);
  absl::Status EmitNumber(const SchemaAlternative& alternative,
                          const MergedRules& rules,
                          Targets* targets);
  absl::Status EmitString(const SchemaAlternative& alternative,
                          const MergedRules& rules,
                          Targets* targets);
  absl::Status EmitArray(const Conjunction& nodes, const MergedRules& rules, Targets* targets);
  absl::Status EmitObject(const Conjunction& nodes, const MergedRules& rules, Targets* targets);

  // One value, then `next`.
  int32_t Constant(const JsonValue& value, int32_t next);
  // The body of a string without what `without` allows.
  absl::StatusOr<Dfa> StringsOf(const MergedRules& rules, const std::vector<Conjunction>& without);
  absl::StatusOr<bool> IsTakenAway(const std::vector<Conjunction>& without, const JsonValue& value);

  struct Property {
    std::string name;
    bool is_required = false;
    int32_t rule = 0;
  };

  // What is needed to write an object (schema_objects.cc).
  struct ObjectPlan {
    std::vector<Property> properties;
    int32_t other = -1;  // rule of a member that is not named; -1: there is none
    int64_t min = 0, max = 0;
    bool counts = false;
  };

  absl::StatusOr<bool> AllowsName(const Conjunction& property_names, const std::string& name);
  absl::StatusOr<ObjectPlan> PlanObject(const Conjunction& nodes,
                                        const MergedRules& rules,
                                        bool* is_possible);

  // Names that match these patterns and no others.
  struct Region {
    Dfa names;
    std::vector<std::string> patterns;
  };

  std::vector<std::string> PatternsOf(const Conjunction& nodes) const;
  absl::StatusOr<std::vector<Region>> OtherNames(const Conjunction& nodes,
                                                 const MergedRules& rules);
  // A rule for members that are not named, or -1.
  absl::StatusOr<int32_t> OtherMembers(const Conjunction& nodes, const MergedRules& rules);
  absl::StatusOr<Dfa> NamesOf(const SchemaAlternative& key_rule, const Dfa& names);
  absl::StatusOr<int32_t> Members(const ObjectPlan& plan);
  int32_t MembersEnd(const ObjectPlan& plan, int64_t count, bool any, int32_t more);

  // Texts of JSON, then `next`.
  int32_t Text(const std::string& text, int32_t next) {
    return grammar_.Match(terminals_.Literal(text), next);
  }

  int32_t Whitespace(int32_t next) { return grammar_.Match(terminals_.Whitespace(), next); }

  int32_t Comma(int32_t next) { return Text(",", Whitespace(next)); }

  absl::Status CheckSize() const;

  SchemaRules& rules_;
  SchemaExpander expander_;
  Grammar& grammar_;
  TerminalTable& terminals_;
  absl::flat_hash_map<Conjunction, int32_t> ids_;
  std::vector<std::pair<Conjunction, int32_t>> open_;  // rules without a body
};

// `body` between quotes.
absl::StatusOr<Dfa> Quoted(const Dfa& body, Budget* budget);

}  // namespace ringserve
