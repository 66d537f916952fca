// Several schemas that must hold at once, as one set of rules. A conjunction is a set of nodes,
// sorted; only their own keywords count here, not what they refer to or combine.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include "engine/base/status.h"
#include "engine/constraint/budget.h"
#include "engine/constraint/dfa.h"
#include "engine/constraint/schema_node.h"

namespace ringserve {

// The type of a value: kTypeInteger of a number without a fraction, kTypeNumber of others.
uint8_t TypeOf(const JsonValue& value);

using Conjunction = std::vector<NodeId>;

// Sorts, and drops what is there twice.
Conjunction Normalized(Conjunction nodes);
Conjunction Union(const Conjunction& a, const Conjunction& b);

struct MergedRules {
  static constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

  bool never = false;
  uint8_t types = kTypeAny;
  std::optional<std::vector<const JsonValue*>> values;  // those of the first node that has any
  int64_t min_length = 0, max_length = kNoLimit;
  std::vector<std::string> patterns;  // that match somewhere
  std::vector<std::string> formats;   // that match the whole
  NumberSpec number;                  // is_integer is not set
  size_t num_prefix = 0;              // items with a schema of their own
  int64_t min_items = 0, max_items = kNoLimit;
  std::vector<std::string>
      names;  // properties and required, in the order in which they are written
  std::vector<std::string> required;  // sorted
  int64_t min_properties = 0, max_properties = kNoLimit;
  Conjunction property_names;
};

// What a schema says of strings, numbers and single values, with the automata that it takes.
class SchemaRules {
 public:
  SchemaRules(const Schema& schema, Budget* budget) : schema_(schema), budget_(budget) {}

  const Schema& schema() const { return schema_; }

  Budget* budget() const { return budget_; }

  absl::StatusOr<MergedRules> Merge(const Conjunction& nodes) const;

  Conjunction ItemNodes(const Conjunction& nodes, size_t index) const;
  // Of a property, by its name.
  absl::StatusOr<Conjunction> PropertyNodes(const Conjunction& nodes, const std::string& name);
  // Of a property that no node names and that matches these of their patterns, and no others.
  Conjunction OtherNodes(const Conjunction& nodes, const std::vector<std::string>& matched) const;

  // The bodies of JSON strings (TextForm::kJsonString) that the rules allow.
  absl::StatusOr<Dfa> StringDfa(const MergedRules& rules);
  absl::StatusOr<Dfa> NumberDfa(const MergedRules& rules, bool is_integer);
  // Whether the nodes, and all that they refer to and combine, allow a value.
  absl::StatusOr<bool> Allow(const Conjunction& nodes, const JsonValue& value, int depth = 0);

  // Of `patternProperties` and `pattern`.
  absl::StatusOr<const Dfa*> PatternLanguage(const std::string& pattern, bool whole);

 private:
  absl::Status AddPropertyNodes(const SchemaNode& node, const std::string& name, Conjunction* out);
  absl::StatusOr<bool> AllowsNode(const SchemaNode& node, const JsonValue& value, int depth);
  absl::StatusOr<bool> AllowsString(const SchemaNode& node, const JsonValue& value);
  absl::StatusOr<bool> AllowsArray(const SchemaNode& node, const JsonValue& value, int depth);
  absl::StatusOr<bool> AllowsObject(const SchemaNode& node, const JsonValue& value, int depth);
  absl::StatusOr<bool> AllowsCombined(const SchemaNode& node, const JsonValue& value, int depth);

  const Schema& schema_;
  Budget* const budget_;
  absl::flat_hash_map<std::string, std::unique_ptr<const Dfa>> patterns_;
};

}  // namespace ringserve
