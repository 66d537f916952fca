// Whether a schema allows a given value: for enum and const beside other keywords.
#include <algorithm>

#include <fmt/format.h>

#include "engine/constraint/char_bytes.h"
#include "engine/constraint/schema_merge.h"

namespace ringserve {
namespace {

constexpr int kMaxDepth = 200;

bool AllowsNumber(const SchemaNode& node, const JsonValue& value) {
  const std::optional<Decimal> number = ParseDecimal(value.text);
  if (!number) {
    return false;
  }
  const auto order = [&](const std::optional<NumberBound>& bound, int sign) {
    if (!bound) {
      return true;
    }
    const int compared = sign * Compare(*number, bound->value);
    return compared > 0 || (compared == 0 && !bound->exclusive);
  };
  return order(node.minimum, 1) && order(node.maximum, -1) &&
         (!node.multiple_of || IsMultiple(*number, *node.multiple_of));
}

int64_t NumCharacters(const std::string& text) {
  return std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; });
}

}  // namespace

uint8_t TypeOf(const JsonValue& value) {
  switch (value.kind) {
    case JsonValue::Kind::kNull:
      return kTypeNull;
    case JsonValue::Kind::kBoolean:
      return kTypeBoolean;
    case JsonValue::Kind::kNumber:
      return value.IsWhole() ? kTypeInteger : kTypeNumber;
    case JsonValue::Kind::kString:
      return kTypeString;
    case JsonValue::Kind::kArray:
      return kTypeArray;
    case JsonValue::Kind::kObject:
      return kTypeObject;
  }
  return 0;
}

absl::StatusOr<bool> SchemaRules::Allow(const Conjunction& nodes,
                                        const JsonValue& value,
                                        int depth) {
  for (const NodeId id : nodes) {
    ASSIGN_OR_RETURN(const bool allowed, AllowsNode(schema_.node(id), value, depth));
    if (!allowed) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<bool> SchemaRules::AllowsNode(const SchemaNode& node,
                                             const JsonValue& value,
                                             int depth) {
  RETURN_IF_ERROR(budget_->Spend(4));
  if (depth > kMaxDepth) {
    return absl::InvalidArgumentError(fmt::format("{}: refers to itself", node.path));
  }
  if (node.never || (TypeOf(value) & node.types) == 0) {
    return false;
  }
  if (node.values) {
    RETURN_IF_ERROR(budget_->Spend(static_cast<int64_t>(node.values->size())));
    if (std::none_of(node.values->begin(), node.values->end(), [&](const JsonValue* other) {
          return Equal(*other, value);
        })) {
      return false;
    }
  }
  absl::StatusOr<bool> own = true;
  switch (value.kind) {
    case JsonValue::Kind::kNumber:
      own = AllowsNumber(node, value);
      break;
    case JsonValue::Kind::kString:
      own = AllowsString(node, value);
      break;
    case JsonValue::Kind::kArray:
      own = AllowsArray(node, value, depth);
      break;
    case JsonValue::Kind::kObject:
      own = AllowsObject(node, value, depth);
      break;
    default:
      break;
  }
  RETURN_IF_ERROR(own.status());
  return *own ? AllowsCombined(node, value, depth) : false;
}

absl::StatusOr<bool> SchemaRules::AllowsString(const SchemaNode& node, const JsonValue& value) {
  const int64_t length = NumCharacters(value.text);
  if (length < node.min_length.value_or(0) ||
      length > node.max_length.value_or(MergedRules::kNoLimit)) {
    return false;
  }
  const std::string body = InForm(value.text, TextForm::kJsonString);
  for (const bool whole : {false, true}) {
    for (const std::string& pattern : whole ? node.formats : node.patterns) {
      ASSIGN_OR_RETURN(const Dfa* const dfa, PatternLanguage(pattern, whole));
      if (!dfa->Matches(body)) {
        return false;
      }
    }
  }
  return true;
}

absl::StatusOr<bool> SchemaRules::AllowsArray(const SchemaNode& node,
                                              const JsonValue& value,
                                              int depth) {
  const auto length = static_cast<int64_t>(value.items.size());
  if (length < node.min_items.value_or(0) ||
      length > node.max_items.value_or(MergedRules::kNoLimit)) {
    return false;
  }
  for (size_t i = 0; i < value.items.size(); ++i) {
    const NodeId schema = i < node.prefix_items.size() ? node.prefix_items[i] : node.items;
    if (schema == SchemaNode::kNone) {
      continue;
    }
    ASSIGN_OR_RETURN(const bool allowed,
                     AllowsNode(schema_.node(schema), value.items[i], depth + 1));
    if (!allowed) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<bool> SchemaRules::AllowsObject(const SchemaNode& node,
                                               const JsonValue& value,
                                               int depth) {
  const auto count = static_cast<int64_t>(value.members.size());
  if (count < node.min_properties.value_or(0) ||
      count > node.max_properties.value_or(MergedRules::kNoLimit)) {
    return false;
  }
  for (const std::string& name : node.required) {
    if (value.Find(name) == nullptr) {
      return false;
    }
  }
  for (const auto& [name, member] : value.members) {
    Conjunction nodes;
    RETURN_IF_ERROR(AddPropertyNodes(node, name, &nodes));
    ASSIGN_OR_RETURN(const bool allowed, Allow(nodes, member, depth + 1));
    if (!allowed) {
      return false;
    }
    if (node.property_names != SchemaNode::kNone) {
      const JsonValue key = {.kind = JsonValue::Kind::kString, .text = name};
      ASSIGN_OR_RETURN(const bool named,
                       AllowsNode(schema_.node(node.property_names), key, depth + 1));
      if (!named) {
        return false;
      }
    }
  }
  return true;
}

absl::StatusOr<bool> SchemaRules::AllowsCombined(const SchemaNode& node,
                                                 const JsonValue& value,
                                                 int depth) {
  if (node.reference != SchemaNode::kNone) {
    ASSIGN_OR_RETURN(const bool allowed,
                     AllowsNode(schema_.node(node.reference), value, depth + 1));
    if (!allowed) {
      return false;
    }
  }
  const auto count = [&](const std::vector<NodeId>& schemas) -> absl::StatusOr<size_t> {
    size_t num_allowing = 0;
    for (const NodeId schema : schemas) {
      ASSIGN_OR_RETURN(const bool allowed, AllowsNode(schema_.node(schema), value, depth + 1));
      num_allowing += allowed ? 1 : 0;
    }
    return num_allowing;
  };
  ASSIGN_OR_RETURN(const size_t num_all, count(node.all_of));
  ASSIGN_OR_RETURN(const size_t num_any, count(node.any_of));
  ASSIGN_OR_RETURN(const size_t num_one, count(node.one_of));
  return num_all == node.all_of.size() && (node.any_of.empty() || num_any > 0) &&
         (node.one_of.empty() || num_one == 1);
}

}  // namespace ringserve
