#include <algorithm>
#include <array>
#include <span>

#include <fmt/format.h>

#include "engine/constraint/json_pointer.h"
#include "engine/constraint/pattern_parser.h"
#include "engine/constraint/schema_node.h"
#include "engine/constraint/string_format.h"

namespace ringserve {
namespace {

using Kind = JsonValue::Kind;

constexpr size_t kMaxNodes = 20'000;

constexpr std::array<std::string_view, 15> kAnnotations = {"$schema",
                                                           "$id",
                                                           "$comment",
                                                           "title",
                                                           "description",
                                                           "default",
                                                           "examples",
                                                           "example",
                                                           "deprecated",
                                                           "readOnly",
                                                           "writeOnly",
                                                           "$defs",
                                                           "definitions",
                                                           "contentMediaType",
                                                           "contentEncoding"};

absl::Status Refuse(const std::string& path, std::string_view message) {
  return absl::InvalidArgumentError(fmt::format("{}: {}", path, message));
}

std::optional<uint8_t> TypeOf(const JsonValue& name) {
  static constexpr std::array<std::pair<std::string_view, int>, 7> kNames = {
      {{"null", kTypeNull},
       {"boolean", kTypeBoolean},
       {"integer", kTypeInteger},
       {"number", kTypeNumber | kTypeInteger},
       {"string", kTypeString},
       {"array", kTypeArray},
       {"object", kTypeObject}}};
  for (const auto& [text, type] : kNames) {
    if (name.kind == Kind::kString && name.text == text) {
      return static_cast<uint8_t>(type);
    }
  }
  return std::nullopt;
}

absl::StatusOr<int64_t> ReadCount(const JsonValue& value, const std::string& path) {
  const std::optional<Decimal> number =
      value.kind == Kind::kNumber ? ParseDecimal(value.text) : std::nullopt;
  if (!number || number->negative || !number->fraction.empty() || number->whole.size() > 9) {
    return Refuse(path, "not a whole number in [0, 999999999]");
  }
  return number->whole.empty() ? 0 : std::stoll(number->whole);
}

absl::StatusOr<Decimal> ReadNumber(const JsonValue& value, const std::string& path) {
  if (value.kind != Kind::kNumber) {
    return Refuse(path, "not a number");
  }
  const std::optional<Decimal> number = ParseDecimal(value.text);
  if (!number) {
    return Refuse(path, "a number with too many digits");
  }
  return *number;
}

absl::StatusOr<std::vector<std::string>> ReadStrings(const JsonValue& value,
                                                     const std::string& path) {
  std::vector<std::string> strings;
  for (const JsonValue& item : value.items) {
    if (item.kind != Kind::kString) {
      return Refuse(path, "not an array of strings");
    }
    strings.push_back(item.text);
  }
  if (value.kind != Kind::kArray) {
    return Refuse(path, "not an array of strings");
  }
  return strings;
}

void Tighten(std::optional<NumberBound>* bound, const NumberBound& other, int sign) {
  const int order = *bound ? sign * Compare(other.value, (*bound)->value) : 1;
  if (order > 0 || (order == 0 && other.exclusive)) {
    *bound = other;
  }
}

}  // namespace

NodeId SchemaNode::FindProperty(const std::string& name) const {
  const auto found = property_ids.find(name);
  return found == property_ids.end() ? kNone : found->second;
}

class SchemaReader {
 public:
  SchemaReader(Schema* schema, Budget* budget) : schema_(*schema), budget_(budget) {}

  absl::Status Read() {
    RETURN_IF_ERROR(NodeOf(schema_.document_, "#").status());
    while (!unread_.empty()) {
      const auto [value, id] = unread_.back();
      unread_.pop_back();
      RETURN_IF_ERROR(ReadNode(*value, *schema_.nodes_[static_cast<size_t>(id)]));
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<NodeId> NodeOf(const JsonValue& value, const std::string& path) {
    const auto [found, is_new] =
        ids_.try_emplace(&value, static_cast<NodeId>(schema_.nodes_.size()));
    if (is_new) {
      if (value.kind != Kind::kObject && value.kind != Kind::kBoolean) {
        return Refuse(path, "not a schema: neither an object nor true nor false");
      }
      if (schema_.nodes_.size() >= kMaxNodes) {
        return Refuse(path, fmt::format("more than {} subschemas", kMaxNodes));
      }
      schema_.nodes_.push_back(std::make_unique<SchemaNode>());
      schema_.nodes_.back()->path = path;
      unread_.emplace_back(&value, found->second);
    }
    return found->second;
  }

  absl::Status ReadNode(const JsonValue& value, SchemaNode& node) {
    if (value.kind == Kind::kBoolean) {
      node.never = !value.boolean;
      return absl::OkStatus();
    }
    for (const auto& [key, content] : value.members) {
      const std::string path = fmt::format("{}/{}", node.path, EscapedPointer(key));
      RETURN_IF_ERROR(ReadKeyword(key, content, path, value, node));
    }
    return absl::OkStatus();
  }

  absl::Status ReadKeyword(const std::string& key,
                           const JsonValue& value,
                           const std::string& path,
                           const JsonValue& siblings,
                           SchemaNode& node) {
    if (std::find(kAnnotations.begin(), kAnnotations.end(), key) != kAnnotations.end()) {
      if (key == "$id" && node.path != "#") {
        return Refuse(path, "a base of its own inside of a schema is not supported");
      }
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(bool known, ReadGeneral(key, value, path, siblings, node));
    if (!known) {
      ASSIGN_OR_RETURN(known, ReadScalar(key, value, path, node));
    }
    if (!known) {
      ASSIGN_OR_RETURN(known, ReadArray(key, value, path, node));
    }
    if (!known) {
      ASSIGN_OR_RETURN(known, ReadObject(key, value, path, node));
    }
    return known ? absl::OkStatus() : Refuse(path, "this keyword is not supported");
  }

  // Each returns whether it knows the keyword.
  absl::StatusOr<bool> ReadGeneral(const std::string& key,
                                   const JsonValue& value,
                                   const std::string& path,
                                   const JsonValue& siblings,
                                   SchemaNode& node) {
    if (key == "type") {
      ASSIGN_OR_RETURN(node.types, ReadTypes(value, path));
      const JsonValue* const nullable = siblings.Find("nullable");
      if (nullable != nullptr && nullable->boolean) {
        node.types |= kTypeNull;
      }
    } else if (key == "nullable") {  // OpenAPI
      if (value.kind != Kind::kBoolean || siblings.Find("type") == nullptr) {
        return Refuse(path, "not true or false beside a type");
      }
    } else if (key == "enum") {
      if (value.kind != Kind::kArray || value.items.empty()) {
        return Refuse(path, "not an array of at least one value");
      }
      RETURN_IF_ERROR(KeepValues(value.items, node));
    } else if (key == "const") {
      RETURN_IF_ERROR(KeepValues({&value, 1}, node));
    } else if (key == "allOf") {
      RETURN_IF_ERROR(ReadSchemas(value, path, &node.all_of));
    } else if (key == "anyOf") {
      RETURN_IF_ERROR(ReadSchemas(value, path, &node.any_of));
    } else if (key == "oneOf") {
      RETURN_IF_ERROR(ReadSchemas(value, path, &node.one_of));
    } else if (key == "$ref") {
      ASSIGN_OR_RETURN(node.reference, Resolve(value, path));
    } else {
      return false;
    }
    return true;
  }

  absl::StatusOr<bool> ReadScalar(const std::string& key,
                                  const JsonValue& value,
                                  const std::string& path,
                                  SchemaNode& node) {
    if (key == "minLength") {
      ASSIGN_OR_RETURN(node.min_length, ReadCount(value, path));
    } else if (key == "maxLength") {
      ASSIGN_OR_RETURN(node.max_length, ReadCount(value, path));
    } else if (key == "pattern") {
      if (value.kind != Kind::kString) {
        return Refuse(path, "not a string");
      }
      RETURN_IF_ERROR(CheckPattern(value.text, path));
      node.patterns.push_back(value.text);
    } else if (key == "format") {
      const auto pattern = FormatPattern(value.kind == Kind::kString ? value.text : "");
      if (!pattern) {
        return Refuse(path,
                      fmt::format("format \"{}\" is not supported; these are: {}",
                                  value.text.substr(0, 64),
                                  KnownFormats()));
      }
      node.formats.push_back(*pattern);
    } else if (key == "minimum" || key == "exclusiveMinimum") {
      ASSIGN_OR_RETURN(const Decimal bound, ReadNumber(value, path));
      Tighten(&node.minimum, {bound, key != "minimum"}, 1);
    } else if (key == "maximum" || key == "exclusiveMaximum") {
      ASSIGN_OR_RETURN(const Decimal bound, ReadNumber(value, path));
      Tighten(&node.maximum, {bound, key != "maximum"}, -1);
    } else if (key == "multipleOf") {
      ASSIGN_OR_RETURN(const Decimal number, ReadNumber(value, path));
      node.multiple_of = ToDivisor(number);
      if (!node.multiple_of) {
        return Refuse(path, "not a number above 0 of at most 12 digits");
      }
    } else {
      return false;
    }
    return true;
  }

  absl::StatusOr<bool> ReadArray(const std::string& key,
                                 const JsonValue& value,
                                 const std::string& path,
                                 SchemaNode& node) {
    if (key == "items") {
      if (value.kind == Kind::kArray) {
        return Refuse(path, "an array of schemas is not supported; use prefixItems");
      }
      ASSIGN_OR_RETURN(node.items, NodeOf(value, path));
    } else if (key == "prefixItems") {
      RETURN_IF_ERROR(ReadSchemas(value, path, &node.prefix_items));
    } else if (key == "minItems") {
      ASSIGN_OR_RETURN(node.min_items, ReadCount(value, path));
    } else if (key == "maxItems") {
      ASSIGN_OR_RETURN(node.max_items, ReadCount(value, path));
    } else if (key == "uniqueItems") {
      if (value.kind != Kind::kBoolean || value.boolean) {
        return Refuse(path, "only false is supported");
      }
    } else {
      return false;
    }
    return true;
  }

  absl::StatusOr<bool> ReadObject(const std::string& key,
                                  const JsonValue& value,
                                  const std::string& path,
                                  SchemaNode& node) {
    if (key == "properties" || key == "patternProperties") {
      if (value.kind != Kind::kObject) {
        return Refuse(path, "not an object");
      }
      auto& out = key == "properties" ? node.properties : node.pattern_properties;
      for (const auto& [name, schema] : value.members) {
        ASSIGN_OR_RETURN(const NodeId id,
                         NodeOf(schema, fmt::format("{}/{}", path, EscapedPointer(name))));
        out.emplace_back(name, id);
        if (key == "patternProperties") {
          RETURN_IF_ERROR(CheckPattern(name, fmt::format("{}/{}", path, EscapedPointer(name))));
        } else {
          node.property_ids.emplace(name, id);
        }
      }
    } else if (key == "additionalProperties") {
      ASSIGN_OR_RETURN(node.additional, NodeOf(value, path));
    } else if (key == "propertyNames") {
      ASSIGN_OR_RETURN(node.property_names, NodeOf(value, path));
    } else if (key == "required") {
      ASSIGN_OR_RETURN(node.required, ReadStrings(value, path));
    } else if (key == "minProperties") {
      ASSIGN_OR_RETURN(node.min_properties, ReadCount(value, path));
    } else if (key == "maxProperties") {
      ASSIGN_OR_RETURN(node.max_properties, ReadCount(value, path));
    } else {
      return false;
    }
    return true;
  }

  static absl::StatusOr<uint8_t> ReadTypes(const JsonValue& value, const std::string& path) {
    uint8_t types = 0;
    const std::span<const JsonValue> names =
        value.kind == Kind::kArray ? std::span<const JsonValue>(value.items) : std::span(&value, 1);
    for (const JsonValue& name : names) {
      const std::optional<uint8_t> type = TypeOf(name);
      if (!type) {
        return Refuse(path, "not a type of JSON");
      }
      types |= *type;
    }
    if (types == 0) {
      return Refuse(path, "no type");
    }
    return types;
  }

  absl::Status CheckPattern(const std::string& pattern, const std::string& path) {
    const absl::Status status = ParsePattern(pattern, budget_).status();
    return status.ok() ? status : Refuse(path, std::string(status.message()));
  }

  // Of enum and const those that both allow.
  static absl::Status KeepValues(std::span<const JsonValue> values, SchemaNode& node) {
    std::vector<const JsonValue*> kept;
    for (const JsonValue& value : values) {
      const bool allowed =
          !node.values || std::any_of(node.values->begin(), node.values->end(), [&](const auto* v) {
            return Equal(*v, value);
          });
      if (allowed) {
        kept.push_back(&value);
      }
    }
    node.values = std::move(kept);
    return absl::OkStatus();
  }

  absl::Status ReadSchemas(const JsonValue& value,
                           const std::string& path,
                           std::vector<NodeId>* out) {
    if (value.kind != Kind::kArray || value.items.empty()) {
      return Refuse(path, "not an array of at least one schema");
    }
    for (size_t i = 0; i < value.items.size(); ++i) {
      ASSIGN_OR_RETURN(const NodeId id, NodeOf(value.items[i], fmt::format("{}/{}", path, i)));
      out->push_back(id);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<NodeId> Resolve(const JsonValue& value, const std::string& path) {
    const std::string& pointer = value.text;
    if (value.kind != Kind::kString || pointer.empty() || pointer[0] != '#' ||
        (pointer.size() > 1 && pointer[1] != '/')) {
      return Refuse(path, "only references into the same document are supported: # or #/...");
    }
    const JsonValue* const target = FindByPointer(schema_.document_, pointer);
    if (target == nullptr) {
      return Refuse(path, fmt::format("\"{}\" is not there", pointer.substr(0, 128)));
    }
    return NodeOf(*target, pointer);
  }

  Schema& schema_;
  Budget* const budget_;
  absl::flat_hash_map<const JsonValue*, NodeId> ids_;
  std::vector<std::pair<const JsonValue*, NodeId>> unread_;
};

absl::StatusOr<std::unique_ptr<Schema>> Schema::Parse(std::string_view json, Budget* budget) {
  std::unique_ptr<Schema> schema(new Schema());
  ASSIGN_OR_RETURN(schema->document_, ParseJsonValue(json, kMaxBytes));
  RETURN_IF_ERROR(SchemaReader(schema.get(), budget).Read());
  return schema;
}

}  // namespace ringserve
