// References, allOf, anyOf and oneOf unfolded: a conjunction of schemas as alternatives, each a
// conjunction of plain ones. oneOf is decided: its alternatives must be disjoint, or overlap in
// strings, numbers, booleans and null alone, which can be taken away from both; else it is refused.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/constraint/schema_merge.h"

namespace ringserve {

struct SchemaAlternative {
  Conjunction nodes;
  std::vector<Conjunction> without;  // values that one of these allows too are none
  bool operator==(const SchemaAlternative&) const = default;
};

class SchemaExpander {
 public:
  static constexpr size_t kMaxAlternatives = 512;

  explicit SchemaExpander(SchemaRules* rules) : rules_(*rules) {}

  absl::StatusOr<std::vector<SchemaAlternative>> Expand(const Conjunction& nodes);

 private:
  struct Partial {
    SchemaAlternative plain;
    std::vector<NodeId> one_of;  // nodes whose oneOf is still to be decided
    int num_decided = 0;
    bool operator==(const Partial&) const = default;
  };

  absl::StatusOr<std::vector<Partial>> ExpandNode(NodeId id);
  absl::StatusOr<std::vector<Partial>> Product(const std::vector<Partial>& left,
                                               const std::vector<Partial>& right,
                                               const std::string& path);
  absl::StatusOr<std::vector<Partial>> DecideOneOf(const Partial& base, NodeId id);
  // Takes away from either what the other allows too.
  absl::Status Separate(const Partial& base,
                        Partial& left,
                        Partial& right,
                        const std::string& path);
  // Types of which some value may satisfy plain nodes; those that are left out surely have none.
  absl::StatusOr<uint8_t> PossibleTypes(const Conjunction& nodes, int depth);
  absl::StatusOr<bool> MayHold(const Conjunction& nodes, int depth);
  absl::StatusOr<bool> MayBeArray(const Conjunction& nodes, const MergedRules& rules, int depth);
  absl::StatusOr<bool> MayBeObject(const Conjunction& nodes, const MergedRules& rules, int depth);

  SchemaRules& rules_;
  std::vector<NodeId> open_;  // nodes that are being expanded
};

}  // namespace ringserve
