#include "engine/constraint/schema_expand.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace ringserve {
namespace {

constexpr int kMaxProofDepth = 4;
constexpr size_t kMaxOpen = 200;
// oneOf in one conjunction; only a circle of references has so many.
constexpr int kMaxDecided = 64;

template <typename T>
void AddUnique(const std::vector<T>& from, std::vector<T>* to) {
  for (const T& item : from) {
    if (std::find(to->begin(), to->end(), item) == to->end()) {
      to->push_back(item);
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<SchemaAlternative>> SchemaExpander::Expand(const Conjunction& nodes) {
  std::vector<Partial> partials(1);
  for (const NodeId id : nodes) {
    ASSIGN_OR_RETURN(const std::vector<Partial> of_node, ExpandNode(id));
    ASSIGN_OR_RETURN(partials, Product(partials, of_node, rules_.schema().node(id).path));
  }
  std::vector<SchemaAlternative> done;
  while (!partials.empty()) {
    Partial partial = std::move(partials.back());
    partials.pop_back();
    if (partial.one_of.empty()) {
      if (std::find(done.begin(), done.end(), partial.plain) == done.end()) {
        done.push_back(std::move(partial.plain));
      }
      continue;
    }
    const NodeId id = partial.one_of.back();
    partial.one_of.pop_back();
    if (partial.num_decided > kMaxDecided) {
      return absl::InvalidArgumentError(
          fmt::format("{}: refers to itself without an array or an object in between",
                      rules_.schema().node(id).path));
    }
    ASSIGN_OR_RETURN(std::vector<Partial> decided, DecideOneOf(partial, id));
    if (done.size() + partials.size() + decided.size() > kMaxAlternatives) {
      return absl::InvalidArgumentError(fmt::format("{}: more than {} alternatives together",
                                                    rules_.schema().node(id).path,
                                                    kMaxAlternatives));
    }
    std::move(decided.begin(), decided.end(), std::back_inserter(partials));
  }
  std::reverse(done.begin(), done.end());
  return done;
}

absl::StatusOr<std::vector<SchemaExpander::Partial>> SchemaExpander::ExpandNode(NodeId id) {
  const SchemaNode& node = rules_.schema().node(id);
  if (std::find(open_.begin(), open_.end(), id) != open_.end()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: refers to itself without an array or an object in between", node.path));
  }
  if (open_.size() >= kMaxOpen) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: more than {} references and combinations in each other", node.path, kMaxOpen));
  }
  open_.push_back(id);
  std::vector<Partial> all(1);
  all[0].plain.nodes = {id};
  if (!node.one_of.empty()) {
    all[0].one_of = {id};
  }
  const auto add = [&](const std::vector<Partial>& more) -> absl::Status {
    ASSIGN_OR_RETURN(all, Product(all, more, node.path));
    return absl::OkStatus();
  };
  if (node.reference != SchemaNode::kNone) {
    ASSIGN_OR_RETURN(const std::vector<Partial> more, ExpandNode(node.reference));
    RETURN_IF_ERROR(add(more));
  }
  for (const NodeId child : node.all_of) {
    ASSIGN_OR_RETURN(const std::vector<Partial> more, ExpandNode(child));
    RETURN_IF_ERROR(add(more));
  }
  if (!node.any_of.empty()) {
    std::vector<Partial> any;
    for (const NodeId child : node.any_of) {
      ASSIGN_OR_RETURN(const std::vector<Partial> more, ExpandNode(child));
      AddUnique(more, &any);
    }
    RETURN_IF_ERROR(add(any));
  }
  open_.pop_back();
  return all;
}

absl::StatusOr<std::vector<SchemaExpander::Partial>> SchemaExpander::Product(
    const std::vector<Partial>& left, const std::vector<Partial>& right, const std::string& path) {
  if (left.size() * right.size() > kMaxAlternatives) {
    return absl::InvalidArgumentError(
        fmt::format("{}: more than {} alternatives together", path, kMaxAlternatives));
  }
  std::vector<Partial> out;
  for (const Partial& a : left) {
    for (const Partial& b : right) {
      RETURN_IF_ERROR(rules_.budget()->Spend(
          static_cast<int64_t>(a.plain.nodes.size() + b.plain.nodes.size() + out.size() / 4)));
      Partial both = a;
      both.plain.nodes = Union(a.plain.nodes, b.plain.nodes);
      AddUnique(b.plain.without, &both.plain.without);
      AddUnique(b.one_of, &both.one_of);
      if (std::find(out.begin(), out.end(), both) == out.end()) {
        out.push_back(std::move(both));
      }
    }
  }
  return out;
}

absl::StatusOr<std::vector<SchemaExpander::Partial>> SchemaExpander::DecideOneOf(
    const Partial& base, NodeId id) {
  const SchemaNode& node = rules_.schema().node(id);
  std::vector<std::vector<Partial>> groups;
  open_.push_back(id);
  for (const NodeId child : node.one_of) {
    ASSIGN_OR_RETURN(std::vector<Partial> group, ExpandNode(child));
    groups.push_back(std::move(group));
  }
  open_.pop_back();
  for (size_t i = 0; i < groups.size(); ++i) {
    for (size_t j = i + 1; j < groups.size(); ++j) {
      for (Partial& left : groups[i]) {
        for (Partial& right : groups[j]) {
          RETURN_IF_ERROR(Separate(
              base, left, right, fmt::format("{}/oneOf: alternatives {} and {}", node.path, i, j)));
        }
      }
    }
  }
  std::vector<Partial> all;
  for (const std::vector<Partial>& group : groups) {
    ASSIGN_OR_RETURN(std::vector<Partial> more, Product({base}, group, node.path));
    for (Partial& partial : more) {
      partial.num_decided = base.num_decided + 1;
    }
    AddUnique(more, &all);
  }
  return all;
}

absl::Status SchemaExpander::Separate(const Partial& base,
                                      Partial& left,
                                      Partial& right,
                                      const std::string& path) {
  // As they are before anything is taken away: what is possible can only become less.
  const Conjunction both = Union(base.plain.nodes, Union(left.plain.nodes, right.plain.nodes));
  ASSIGN_OR_RETURN(const uint8_t overlap, PossibleTypes(both, 0));
  if (overlap == 0) {
    return absl::OkStatus();
  }
  if ((overlap & (kTypeArray | kTypeObject)) != 0 || !left.one_of.empty() ||
      !right.one_of.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("{} may both hold for one value; only one may: tell them apart by a required "
                    "property or a type, or use anyOf",
                    path));
  }
  left.plain.without.push_back(right.plain.nodes);
  right.plain.without.push_back(left.plain.nodes);
  return absl::OkStatus();
}

absl::StatusOr<uint8_t> SchemaExpander::PossibleTypes(const Conjunction& nodes, int depth) {
  ASSIGN_OR_RETURN(const MergedRules rules, rules_.Merge(nodes));
  if (rules.never) {
    return 0;
  }
  uint8_t types = rules.types;
  if (rules.values) {
    uint8_t found = 0;
    for (const JsonValue* value : *rules.values) {
      ASSIGN_OR_RETURN(const bool allowed, rules_.Allow(nodes, *value));
      if (allowed) {
        found = static_cast<uint8_t>(found | TypeOf(*value));
      }
    }
    return found;
  }
  const auto drop = [&types](int type) { types = static_cast<uint8_t>(types & ~type); };
  if ((types & kTypeString) != 0) {
    bool possible = rules.min_length <= rules.max_length;
    if (possible && (!rules.patterns.empty() || !rules.formats.empty())) {
      ASSIGN_OR_RETURN(const Dfa strings, rules_.StringDfa(rules));
      possible = !strings.empty();
    }
    if (!possible) {
      drop(kTypeString);
    }
  }
  if ((types & (kTypeInteger | kTypeNumber)) != 0) {
    ASSIGN_OR_RETURN(const Dfa numbers, rules_.NumberDfa(rules, (types & kTypeNumber) == 0));
    if (numbers.empty()) {
      drop(kTypeInteger | kTypeNumber);
    }
  }
  if ((types & kTypeArray) != 0) {
    ASSIGN_OR_RETURN(const bool possible, MayBeArray(nodes, rules, depth));
    if (!possible) {
      drop(kTypeArray);
    }
  }
  if ((types & kTypeObject) != 0) {
    ASSIGN_OR_RETURN(const bool possible, MayBeObject(nodes, rules, depth));
    if (!possible) {
      drop(kTypeObject);
    }
  }
  return types;
}

absl::StatusOr<bool> SchemaExpander::MayHold(const Conjunction& nodes, int depth) {
  if (depth > kMaxProofDepth) {
    return true;
  }
  // Without deciding oneOf: each of its alternatives may hold.
  std::vector<Partial> partials(1);
  for (const NodeId id : nodes) {
    ASSIGN_OR_RETURN(const std::vector<Partial> of_node, ExpandNode(id));
    ASSIGN_OR_RETURN(partials, Product(partials, of_node, rules_.schema().node(id).path));
  }
  for (const Partial& partial : partials) {
    ASSIGN_OR_RETURN(const uint8_t types, PossibleTypes(partial.plain.nodes, depth + 1));
    if (types != 0) {
      return true;
    }
  }
  return false;
}

absl::StatusOr<bool> SchemaExpander::MayBeArray(const Conjunction& nodes,
                                                const MergedRules& rules,
                                                int depth) {
  if (rules.min_items > rules.max_items) {
    return false;
  }
  const auto num_needed =
      std::min<int64_t>(rules.min_items, static_cast<int64_t>(rules.num_prefix) + 1);
  for (int64_t i = 0; i < num_needed; ++i) {
    ASSIGN_OR_RETURN(const bool possible,
                     MayHold(rules_.ItemNodes(nodes, static_cast<size_t>(i)), depth + 1));
    if (!possible) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<bool> SchemaExpander::MayBeObject(const Conjunction& nodes,
                                                 const MergedRules& rules,
                                                 int depth) {
  if (rules.min_properties > rules.max_properties ||
      static_cast<int64_t>(rules.required.size()) > rules.max_properties) {
    return false;
  }
  for (const std::string& name : rules.required) {
    ASSIGN_OR_RETURN(const Conjunction property, rules_.PropertyNodes(nodes, name));
    ASSIGN_OR_RETURN(const bool possible, MayHold(property, depth + 1));
    if (!possible) {
      return false;
    }
  }
  return true;
}

}  // namespace ringserve
