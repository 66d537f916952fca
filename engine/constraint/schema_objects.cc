// Objects: named members in their order, each or not, then others.
#include <algorithm>

#include <fmt/format.h>

#include "engine/constraint/char_bytes.h"
#include "engine/constraint/pattern_dfa.h"
#include "engine/constraint/schema_emitter.h"

namespace ringserve {
namespace {

constexpr size_t kMaxRegions = 64;

int32_t Clamped(int64_t limit) {
  return static_cast<int32_t>(std::min<int64_t>(limit, Grammar::kUnbounded));
}

}  // namespace

absl::StatusOr<bool> SchemaEmitter::AllowsName(const Conjunction& property_names,
                                               const std::string& name) {
  const JsonValue key = {.kind = JsonValue::Kind::kString, .text = name};
  return rules_.Allow(property_names, key);
}

absl::StatusOr<SchemaEmitter::ObjectPlan> SchemaEmitter::PlanObject(const Conjunction& nodes,
                                                                    const MergedRules& rules,
                                                                    bool* is_possible) {
  if (rules.names.size() > static_cast<size_t>(Grammar::kMaxWidth) + rules.required.size()) {
    return absl::InvalidArgumentError(
        fmt::format("{}/properties: more than {} that are not required",
                    rules_.schema().node(nodes.front()).path,
                    Grammar::kMaxWidth));
  }
  ObjectPlan plan;
  *is_possible = rules.min_properties <= rules.max_properties;
  for (const std::string& name : rules.names) {
    const bool is_required = std::binary_search(rules.required.begin(), rules.required.end(), name);
    ASSIGN_OR_RETURN(const bool allowed, AllowsName(rules.property_names, name));
    if (allowed) {
      ASSIGN_OR_RETURN(const Conjunction property, rules_.PropertyNodes(nodes, name));
      plan.properties.push_back({name, is_required, RuleOf(property)});
    } else if (is_required) {
      *is_possible = false;
    }
  }
  if (*is_possible) {
    ASSIGN_OR_RETURN(plan.other, OtherMembers(nodes, rules));
  }
  plan.min = rules.min_properties;
  plan.max = rules.max_properties;
  plan.counts =
      plan.max != MergedRules::kNoLimit || plan.min > static_cast<int64_t>(rules.required.size());
  const auto num_named = static_cast<int64_t>(plan.properties.size());
  if (plan.other >= 0 && plan.min > num_named + 1) {
    for (const NodeId id : nodes) {
      if (rules_.schema().node(id).min_properties == plan.min) {
        return absl::InvalidArgumentError(fmt::format(
            "{}/minProperties: {} is more than the {} named properties and one other can warrant: "
            "others may have one name",
            rules_.schema().node(id).path,
            plan.min,
            num_named));
      }
    }
  }
  return plan;
}

// By what patterns they match, the names that no node names.
absl::StatusOr<std::vector<SchemaEmitter::Region>> SchemaEmitter::OtherNames(
    const Conjunction& nodes, const MergedRules& rules) {
  std::vector<std::string> named;
  for (const std::string& name : rules.names) {
    named.push_back(InForm(name, TextForm::kJsonString));
  }
  Budget* const budget = rules_.budget();
  std::vector<Region> regions(1);
  ASSIGN_OR_RETURN(regions[0].names,
                   Subtract(AnyTextDfa(TextForm::kJsonString), LiteralsDfa(named), budget));
  for (const std::string& pattern : PatternsOf(nodes)) {
    ASSIGN_OR_RETURN(const Dfa* const dfa, rules_.PatternLanguage(pattern, /*whole=*/false));
    std::vector<Region> split;
    for (Region& region : regions) {
      ASSIGN_OR_RETURN(Dfa inside, Intersect(region.names, *dfa, budget));
      ASSIGN_OR_RETURN(Dfa outside, Subtract(region.names, *dfa, budget));
      if (!inside.empty()) {
        split.push_back({std::move(inside), region.patterns});
        split.back().patterns.push_back(pattern);
      }
      if (!outside.empty()) {
        split.push_back({std::move(outside), std::move(region.patterns)});
      }
    }
    regions = std::move(split);
    if (regions.size() > kMaxRegions) {
      return absl::InvalidArgumentError(
          fmt::format("{}/patternProperties: more than {} ways to match several patterns",
                      rules_.schema().node(nodes.front()).path,
                      kMaxRegions));
    }
  }
  return regions;
}

std::vector<std::string> SchemaEmitter::PatternsOf(const Conjunction& nodes) const {
  std::vector<std::string> patterns;
  for (const NodeId id : nodes) {
    for (const auto& [pattern, schema] : rules_.schema().node(id).pattern_properties) {
      if (std::find(patterns.begin(), patterns.end(), pattern) == patterns.end()) {
        patterns.push_back(pattern);
      }
    }
  }
  return patterns;
}

absl::StatusOr<int32_t> SchemaEmitter::OtherMembers(const Conjunction& nodes,
                                                    const MergedRules& rules) {
  const auto is_never = [this](const Conjunction& members) {
    return std::any_of(members.begin(), members.end(), [this](NodeId id) {
      return rules_.schema().node(id).never;
    });
  };
  const auto member = [this](int32_t key, const Conjunction& value) {
    return grammar_.Match(key,
                          Text(":", Whitespace(grammar_.Call(RuleOf(value), grammar_.Return()))));
  };
  const bool has_patterns = !PatternsOf(nodes).empty();
  const Conjunction unmatched = rules_.OtherNodes(nodes, {});
  Targets ways;
  if (!has_patterns && is_never(unmatched)) {
    return -1;
  }
  if (!has_patterns && rules.names.empty() && rules.property_names.empty()) {
    ways.push_back(member(terminals_.AnyString(), unmatched));
  } else {
    ASSIGN_OR_RETURN(const std::vector<Region> regions, OtherNames(nodes, rules));
    ASSIGN_OR_RETURN(const std::vector<SchemaAlternative> key_rules,
                     expander_.Expand(rules.property_names));
    for (const Region& region : regions) {
      const Conjunction value = rules_.OtherNodes(nodes, region.patterns);
      for (const SchemaAlternative& key_rule : key_rules) {
        if (is_never(value)) {
          continue;
        }
        ASSIGN_OR_RETURN(const Dfa names, NamesOf(key_rule, region.names));
        ASSIGN_OR_RETURN(Dfa quoted, Quoted(names, rules_.budget()));
        if (!quoted.empty()) {
          const std::string key = fmt::format("names {}", grammar_.terminals().size());
          ways.push_back(member(terminals_.Add(key, std::move(quoted)), value));
        }
      }
    }
  }
  if (ways.empty()) {
    return -1;
  }
  const int32_t rule = grammar_.AddRule();
  grammar_.SetRule(rule, grammar_.Choice(ways));
  return rule;
}

// Of `names` those that a schema for names allows.
absl::StatusOr<Dfa> SchemaEmitter::NamesOf(const SchemaAlternative& key_rule, const Dfa& names) {
  if (key_rule.nodes.empty()) {
    return names;
  }
  ASSIGN_OR_RETURN(const MergedRules rules, rules_.Merge(key_rule.nodes));
  if (rules.never || (rules.types & kTypeString) == 0) {
    return Dfa();
  }
  if (rules.values) {
    std::vector<std::string> texts;
    for (const JsonValue* value : *rules.values) {
      ASSIGN_OR_RETURN(const bool allowed, rules_.Allow(key_rule.nodes, *value));
      ASSIGN_OR_RETURN(const bool is_taken_away, IsTakenAway(key_rule.without, *value));
      if (allowed && !is_taken_away && value->kind == JsonValue::Kind::kString) {
        texts.push_back(InForm(value->text, TextForm::kJsonString));
      }
    }
    return Intersect(names, LiteralsDfa(texts), rules_.budget());
  }
  ASSIGN_OR_RETURN(const Dfa allowed, StringsOf(rules, key_rule.without));
  return Intersect(names, allowed, rules_.budget());
}

absl::Status SchemaEmitter::EmitObject(const Conjunction& nodes,
                                       const MergedRules& rules,
                                       Targets* targets) {
  bool is_possible = true;
  ASSIGN_OR_RETURN(const ObjectPlan plan, PlanObject(nodes, rules, &is_possible));
  if (!is_possible) {
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const int32_t members, Members(plan));
  targets->push_back(Text("{", Whitespace(members)));
  return absl::OkStatus();
}

// After the named members, of which `count` were written.
int32_t SchemaEmitter::MembersEnd(const ObjectPlan& plan, int64_t count, bool any, int32_t more) {
  const int32_t close = Text("}", grammar_.Return());
  const int64_t missing = plan.counts ? plan.min - count : 0;
  const int64_t room =
      plan.counts && plan.max != MergedRules::kNoLimit ? plan.max - count : MergedRules::kNoLimit;
  const bool has_others = plan.other >= 0 && room > 0;
  // Others may have one name: only one of them surely counts.
  if (missing > (has_others ? 1 : 0) || room < 0) {
    return grammar_.Choice({});
  }
  const int32_t end = any ? Whitespace(close) : close;
  if (!has_others) {
    return end;
  }
  const auto needed = static_cast<int32_t>(std::max<int64_t>(missing, 0));
  if (any) {
    return grammar_.Repeat(more, needed, Clamped(room), end);
  }
  const int32_t rest =
      grammar_.Repeat(more,
                      0,
                      room == MergedRules::kNoLimit ? Grammar::kUnbounded : Clamped(room - 1),
                      Whitespace(close));
  Targets ways = {grammar_.Call(plan.other, rest)};
  if (needed == 0) {
    ways.push_back(end);
  }
  return grammar_.Choice(ways);
}

// From the last member to the first; `any` tells whether one stands before, and so a comma.
absl::StatusOr<int32_t> SchemaEmitter::Members(const ObjectPlan& plan) {
  int32_t more = -1;
  if (plan.other >= 0) {
    more = grammar_.AddRule();
    grammar_.SetRule(more, Comma(grammar_.Call(plan.other, grammar_.Return())));
  }
  const auto num_named = static_cast<int64_t>(plan.properties.size());
  // Counts above what still matters are one.
  const int64_t top = !plan.counts                        ? 0
                      : plan.max != MergedRules::kNoLimit ? std::min(plan.max, num_named)
                                                          : std::min(plan.min, num_named);
  Targets after;  // by the count of members before, at least one of which is there
  for (int64_t count = 0; count <= top; ++count) {
    after.push_back(MembersEnd(plan, count, /*any=*/true, more));
  }
  int32_t none = MembersEnd(plan, 0, /*any=*/false, more);
  for (auto property = plan.properties.rbegin(); property != plan.properties.rend(); ++property) {
    RETURN_IF_ERROR(CheckSize());
    const std::string key = fmt::format("\"{}\":", InForm(property->name, TextForm::kJsonString));
    const auto write = [&](int64_t count) {
      // One more than the maximum is nothing.
      const bool is_full = plan.counts && plan.max != MergedRules::kNoLimit && count >= plan.max;
      const auto then = static_cast<size_t>(std::min(plan.counts ? count + 1 : 0, top));
      return is_full ? grammar_.Choice({})
                     : Text(key, Whitespace(grammar_.Call(property->rule, after[then])));
    };
    Targets before;
    Targets first = {write(0)};
    if (!property->is_required) {
      first.push_back(none);
    }
    for (int64_t count = 0; count <= top; ++count) {
      Targets ways = {Comma(write(count))};
      if (!property->is_required) {
        ways.push_back(after[static_cast<size_t>(count)]);
      }
      before.push_back(grammar_.Choice(ways));
    }
    none = grammar_.Choice(first);
    after = std::move(before);
  }
  return none;
}

}  // namespace ringserve
