// JSON Schema (2020-12, and what earlier drafts and OpenAPI share with it) as it was written: one
// node per subschema, its keywords checked, references resolved. What this server cannot enforce is
// refused by name, with the JSON pointer of its place; annotations are accepted.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include "engine/base/status.h"
#include "engine/constraint/budget.h"
#include "engine/constraint/decimal.h"
#include "engine/constraint/json_value.h"
#include "engine/constraint/number_language.h"

namespace ringserve {

// A set of JSON's types; an integer is a number, kInteger alone a number without a fraction.
enum JsonType : uint8_t {
  kTypeNull = 1,
  kTypeBoolean = 2,
  kTypeInteger = 4,
  kTypeNumber = 8,  // always with kTypeInteger
  kTypeString = 16,
  kTypeArray = 32,
  kTypeObject = 64,
  kTypeAny = 127,
};

using NodeId = int32_t;

struct SchemaNode {
  static constexpr NodeId kNone = -1;

  std::string path;    // "#/properties/name"
  bool never = false;  // the schema `false`
  uint8_t types = kTypeAny;
  std::optional<std::vector<const JsonValue*>> values;  // enum, const

  std::optional<int64_t> min_length, max_length;
  std::vector<std::string> patterns;
  std::vector<std::string> formats;  // as patterns

  std::optional<NumberBound> minimum, maximum;
  std::optional<Divisor> multiple_of;

  std::vector<NodeId> prefix_items;
  NodeId items = kNone;
  std::optional<int64_t> min_items, max_items;

  std::vector<std::pair<std::string, NodeId>> properties;
  absl::flat_hash_map<std::string, NodeId> property_ids;  // the same by name
  std::vector<std::pair<std::string, NodeId>> pattern_properties;
  NodeId additional = kNone;
  NodeId property_names = kNone;
  std::vector<std::string> required;
  std::optional<int64_t> min_properties, max_properties;

  std::vector<NodeId> all_of;
  std::vector<NodeId> any_of;
  std::vector<NodeId> one_of;
  NodeId reference = kNone;

  // kNone if it is not named.
  NodeId FindProperty(const std::string& name) const;
};

class Schema {
 public:
  static constexpr size_t kMaxBytes = size_t{256} * 1024;

  // INVALID_ARGUMENT names the place: "#/properties/age/minimum: ...".
  static absl::StatusOr<std::unique_ptr<Schema>> Parse(std::string_view json, Budget* budget);

  NodeId root() const { return 0; }

  const SchemaNode& node(NodeId id) const { return *nodes_[static_cast<size_t>(id)]; }

 private:
  friend class SchemaReader;
  Schema() = default;

  JsonValue document_;  // nodes point into it
  std::vector<std::unique_ptr<SchemaNode>> nodes_;
};

}  // namespace ringserve
