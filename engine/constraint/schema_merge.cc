#include "engine/constraint/schema_merge.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "engine/constraint/pattern_dfa.h"

namespace ringserve {
namespace {

void AddUnique(const std::vector<std::string>& from, std::vector<std::string>* to) {
  for (const std::string& text : from) {
    if (std::find(to->begin(), to->end(), text) == to->end()) {
      to->push_back(text);
    }
  }
}

void KeepTighter(const std::optional<NumberBound>& bound,
                 int sign,
                 std::optional<NumberBound>* kept) {
  if (!bound) {
    return;
  }
  const int order = *kept ? sign * Compare(bound->value, (*kept)->value) : 1;
  if (order > 0 || (order == 0 && bound->exclusive)) {
    *kept = bound;
  }
}

void AddNames(const SchemaNode& node,
              absl::flat_hash_map<std::string, bool>* seen,
              MergedRules* out) {
  const auto add = [&](const std::string& name) {
    if (seen->try_emplace(name, true).second) {
      out->names.push_back(name);
    }
  };
  for (const auto& [name, schema] : node.properties) {
    add(name);
  }
}

// Of a JSON string's body: a character begins, or an escape goes on.
struct CountState {
  int32_t state = 0;
  int32_t count = 0;
  int8_t escape = 0;  // bytes of an escape that are still to come; -1: its letter
  bool operator==(const CountState&) const = default;

  template <typename H>
  friend H AbslHashValue(H h, const CountState& s) {
    return H::combine(std::move(h), s.state, s.count, s.escape);
  }
};

absl::StatusOr<Dfa> WithLength(const Dfa& dfa, int64_t min, int64_t max, Budget* budget) {
  if (dfa.empty()) {
    return dfa;
  }
  std::vector<ByteRange> kinds;
  for (int byte = 0; byte < 256; ++byte) {
    const auto at = static_cast<uint8_t>(byte);
    const bool splits = byte == 0 || byte == 0x80 || byte == 0xc0 || byte == '\\' ||
                        byte == '\\' + 1 || byte == 'u' || byte == 'u' + 1 ||
                        dfa.class_of(at) != dfa.class_of(static_cast<uint8_t>(byte - 1));
    if (splits) {
      kinds.push_back({at, at});
    }
    kinds.back().last = at;
  }
  const bool is_open = max == MergedRules::kNoLimit;
  const auto next = [&](const CountState& from, uint8_t byte) -> std::optional<CountState> {
    CountState to = from;
    to.state = dfa.Next(from.state, byte);
    if (to.state == Dfa::kDead) {
      return std::nullopt;
    }
    if (from.escape != 0) {
      to.escape = static_cast<int8_t>(from.escape > 0 ? from.escape - 1 : byte == 'u' ? 4 : 0);
      return to;
    }
    if (byte < 0x80 || byte >= 0xc0) {
      if (!is_open && from.count >= max) {
        return std::nullopt;
      }
      to.count = is_open && from.count >= min ? from.count : from.count + 1;
      to.escape = byte == '\\' ? int8_t{-1} : int8_t{0};
    }
    return to;
  };
  const auto accepts = [&](const CountState& state) {
    return state.count >= min && dfa.accepts(state.state);
  };
  return ExploreDfa(CountState{}, kinds, next, accepts, budget);
}

}  // namespace

Conjunction Normalized(Conjunction nodes) {
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
  return nodes;
}

Conjunction Union(const Conjunction& a, const Conjunction& b) {
  Conjunction all = a;
  all.insert(all.end(), b.begin(), b.end());
  return Normalized(std::move(all));
}

absl::StatusOr<MergedRules> SchemaRules::Merge(const Conjunction& nodes) const {
  MergedRules out;
  absl::flat_hash_map<std::string, bool> seen;
  for (const NodeId id : nodes) {
    const SchemaNode& node = schema_.node(id);
    RETURN_IF_ERROR(budget_->Spend(static_cast<int64_t>(8 + node.properties.size())));
    out.never = out.never || node.never;
    out.types &= node.types;
    if (node.values && !out.values) {
      out.values = node.values;
    }
    out.min_length = std::max(out.min_length, node.min_length.value_or(0));
    out.max_length = std::min(out.max_length, node.max_length.value_or(MergedRules::kNoLimit));
    AddUnique(node.patterns, &out.patterns);
    AddUnique(node.formats, &out.formats);
    KeepTighter(node.minimum, 1, &out.number.min);
    KeepTighter(node.maximum, -1, &out.number.max);
    if (node.multiple_of) {
      out.number.divisor = out.number.divisor
                               ? LeastCommonMultiple(*out.number.divisor, *node.multiple_of)
                               : node.multiple_of;
      if (!out.number.divisor) {
        return absl::InvalidArgumentError(fmt::format(
            "{}/multipleOf: not supported together with the multipleOf that it meets", node.path));
      }
    }
    out.num_prefix = std::max(out.num_prefix, node.prefix_items.size());
    out.min_items = std::max(out.min_items, node.min_items.value_or(0));
    out.max_items = std::min(out.max_items, node.max_items.value_or(MergedRules::kNoLimit));
    AddNames(node, &seen, &out);
    out.required.insert(out.required.end(), node.required.begin(), node.required.end());
    out.min_properties = std::max(out.min_properties, node.min_properties.value_or(0));
    out.max_properties =
        std::min(out.max_properties, node.max_properties.value_or(MergedRules::kNoLimit));
    if (node.property_names != SchemaNode::kNone) {
      out.property_names.push_back(node.property_names);
    }
  }
  for (const std::string& name : out.required) {
    if (seen.try_emplace(name, true).second) {
      out.names.push_back(name);
    }
  }
  std::sort(out.required.begin(), out.required.end());
  out.required.erase(std::unique(out.required.begin(), out.required.end()), out.required.end());
  out.property_names = Normalized(std::move(out.property_names));
  return out;
}

Conjunction SchemaRules::ItemNodes(const Conjunction& nodes, size_t index) const {
  Conjunction out;
  for (const NodeId id : nodes) {
    const SchemaNode& node = schema_.node(id);
    if (index < node.prefix_items.size()) {
      out.push_back(node.prefix_items[index]);
    } else if (node.items != SchemaNode::kNone) {
      out.push_back(node.items);
    }
  }
  return Normalized(std::move(out));
}

absl::Status SchemaRules::AddPropertyNodes(const SchemaNode& node,
                                           const std::string& name,
                                           Conjunction* out) {
  const NodeId named = node.FindProperty(name);
  bool is_known = named != SchemaNode::kNone;
  if (is_known) {
    out->push_back(named);
  }
  for (const auto& [pattern, schema] : node.pattern_properties) {
    ASSIGN_OR_RETURN(const Dfa* const dfa, PatternLanguage(pattern, /*whole=*/false));
    if (dfa->Matches(InForm(name, TextForm::kJsonString))) {
      out->push_back(schema);
      is_known = true;
    }
  }
  if (!is_known && node.additional != SchemaNode::kNone) {
    out->push_back(node.additional);
  }
  return absl::OkStatus();
}

absl::StatusOr<Conjunction> SchemaRules::PropertyNodes(const Conjunction& nodes,
                                                       const std::string& name) {
  Conjunction out;
  for (const NodeId id : nodes) {
    RETURN_IF_ERROR(AddPropertyNodes(schema_.node(id), name, &out));
  }
  return Normalized(std::move(out));
}

Conjunction SchemaRules::OtherNodes(const Conjunction& nodes,
                                    const std::vector<std::string>& matched) const {
  Conjunction out;
  for (const NodeId id : nodes) {
    const SchemaNode& node = schema_.node(id);
    bool is_known = false;
    for (const auto& [pattern, schema] : node.pattern_properties) {
      if (std::find(matched.begin(), matched.end(), pattern) != matched.end()) {
        out.push_back(schema);
        is_known = true;
      }
    }
    if (!is_known && node.additional != SchemaNode::kNone) {
      out.push_back(node.additional);
    }
  }
  return Normalized(std::move(out));
}

absl::StatusOr<const Dfa*> SchemaRules::PatternLanguage(const std::string& pattern, bool whole) {
  std::unique_ptr<const Dfa>& slot = patterns_[(whole ? "w" : "s") + pattern];
  if (slot == nullptr) {
    ASSIGN_OR_RETURN(
        Dfa dfa,
        PatternDfa(
            pattern, whole ? Match::kWhole : Match::kSomewhere, TextForm::kJsonString, budget_));
    slot = std::make_unique<const Dfa>(std::move(dfa));
  }
  return slot.get();
}

absl::StatusOr<Dfa> SchemaRules::StringDfa(const MergedRules& rules) {
  std::optional<Dfa> all;
  const auto keep = [&](const std::string& pattern, bool whole) -> absl::Status {
    ASSIGN_OR_RETURN(const Dfa* const dfa, PatternLanguage(pattern, whole));
    if (!all) {
      all = *dfa;
    } else {
      ASSIGN_OR_RETURN(all, Intersect(*all, *dfa, budget_));
    }
    return absl::OkStatus();
  };
  for (const std::string& format : rules.formats) {
    RETURN_IF_ERROR(keep(format, /*whole=*/true));
  }
  for (const std::string& pattern : rules.patterns) {
    RETURN_IF_ERROR(keep(pattern, /*whole=*/false));
  }
  if (!all) {
    all = AnyTextDfa(TextForm::kJsonString);
  }
  if (rules.min_length > 0 || rules.max_length != MergedRules::kNoLimit) {
    return WithLength(*all, rules.min_length, rules.max_length, budget_);
  }
  return *std::move(all);
}

absl::StatusOr<Dfa> SchemaRules::NumberDfa(const MergedRules& rules, bool is_integer) {
  NumberSpec spec = rules.number;
  spec.is_integer = is_integer;
  return ringserve::NumberDfa(spec, budget_);
}

}  // namespace ringserve
