#include "engine/constraint/schema_emitter.h"

#include <algorithm>
#include <limits>
#include <optional>

#include <fmt/format.h>

#include "engine/constraint/char_bytes.h"

namespace ringserve {
namespace {

constexpr size_t kMaxRules = 20'000;
// A value inside of a constant takes some four instructions, of which Grammar::kMaxInstructions
// bounds the number only once they are there.
constexpr int64_t kWorkPerConstant = 4 * Budget::kWork / Grammar::kMaxInstructions;

absl::Status SpendOnConstant(const JsonValue& value, Budget* budget) {
  RETURN_IF_ERROR(budget->Spend(kWorkPerConstant));
  for (const JsonValue& item : value.items) {
    RETURN_IF_ERROR(SpendOnConstant(item, budget));
  }
  for (const auto& [name, member] : value.members) {
    RETURN_IF_ERROR(SpendOnConstant(member, budget));
  }
  return absl::OkStatus();
}

std::string QuotedText(const std::string& text) {
  return fmt::format("\"{}\"", InForm(text, TextForm::kJsonString));
}

// The one way to write a value that is neither array nor object.
std::string ScalarText(const JsonValue& value) {
  switch (value.kind) {
    case JsonValue::Kind::kNull:
      return "null";
    case JsonValue::Kind::kBoolean:
      return value.boolean ? "true" : "false";
    case JsonValue::Kind::kNumber:
      return value.text;
    default:
      return QuotedText(value.text);
  }
}

bool IsScalar(const JsonValue& value) {
  return value.kind != JsonValue::Kind::kArray && value.kind != JsonValue::Kind::kObject;
}

int32_t Clamped(int64_t limit) {
  return static_cast<int32_t>(std::min<int64_t>(limit, Grammar::kUnbounded));
}

// Equal rules have equal keys, so that they share an automaton.
std::string NumberKey(const NumberSpec& spec, bool is_integer) {
  std::string key = is_integer ? "integer" : "number";
  for (const auto& bound : {spec.min, spec.max}) {
    key += bound ? fmt::format(" {}{}{}.{}",
                               bound->exclusive ? "!" : "",
                               bound->value.negative ? "-" : "",
                               bound->value.whole,
                               bound->value.fraction)
                 : " _";
  }
  return spec.divisor ? fmt::format("{} {} {}", key, spec.divisor->mantissa, spec.divisor->scale)
                      : key;
}

std::string StringKey(const MergedRules& rules) {
  std::string key = fmt::format("text {} {}", rules.min_length, rules.max_length);
  for (const auto* patterns : {&rules.patterns, &rules.formats}) {
    for (const std::string& pattern : *patterns) {
      key += fmt::format(" {}:{}", pattern.size(), pattern);
    }
    key += '|';
  }
  return key;
}

std::string UniqueKey(const Grammar& grammar) {
  return fmt::format("only {}", grammar.terminals().size());
}

}  // namespace

absl::StatusOr<Dfa> Quoted(const Dfa& body, Budget* budget) {
  if (body.empty()) {
    return body;
  }
  constexpr int32_t kOpening = -1;
  constexpr int32_t kClosed = -2;
  std::vector<ByteRange> kinds;
  for (int byte = 0; byte < 256; ++byte) {
    const auto at = static_cast<uint8_t>(byte);
    const bool splits = byte == 0 || byte == '"' || byte == '"' + 1 ||
                        body.class_of(at) != body.class_of(static_cast<uint8_t>(byte - 1));
    if (splits) {
      kinds.push_back({at, at});
    }
    kinds.back().last = at;
  }
  const auto next = [&](int32_t state, uint8_t byte) -> std::optional<int32_t> {
    if (state == kOpening) {
      return byte == '"' ? std::optional(0) : std::nullopt;
    }
    if (state == kClosed) {
      return std::nullopt;
    }
    const int32_t to = body.Next(state, byte);
    if (to != Dfa::kDead) {
      return to;
    }
    return byte == '"' && body.accepts(state) ? std::optional(kClosed) : std::nullopt;
  };
  return ExploreDfa(
      kOpening, kinds, next, [](int32_t state) { return state == kClosed; }, budget);
}

int32_t SchemaEmitter::RuleOf(const Conjunction& nodes) {
  const auto [found, is_new] = ids_.try_emplace(nodes, 0);
  if (is_new) {
    found->second = grammar_.AddRule();
    open_.emplace_back(nodes, found->second);
  }
  return found->second;
}

absl::Status SchemaEmitter::EmitAll() {
  for (size_t at = 0; at < open_.size(); ++at) {
    const auto [nodes, rule] = open_[at];
    absl::Status status = EmitRule(nodes, rule);
    status.Update(CheckSize());
    if (!status.ok() && status.message().substr(0, 1) != "#" && !nodes.empty()) {
      return absl::InvalidArgumentError(fmt::format(
          "{}: {}", rules_.schema().node(nodes.front()).path, std::string(status.message())));
    }
    RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

absl::Status SchemaEmitter::CheckSize() const {
  return grammar_.is_too_large() || open_.size() > kMaxRules ? Budget::TooLarge()
                                                             : absl::OkStatus();
}

absl::Status SchemaEmitter::EmitRule(const Conjunction& nodes, int32_t rule) {
  ASSIGN_OR_RETURN(const std::vector<SchemaAlternative> alternatives, expander_.Expand(nodes));
  Targets targets;
  for (const SchemaAlternative& alternative : alternatives) {
    RETURN_IF_ERROR(EmitAlternative(alternative, &targets));
  }
  grammar_.SetRule(rule, grammar_.Choice(targets));
  return absl::OkStatus();
}

absl::Status SchemaEmitter::EmitAlternative(const SchemaAlternative& alternative,
                                            Targets* targets) {
  ASSIGN_OR_RETURN(const MergedRules rules, rules_.Merge(alternative.nodes));
  if (rules.never) {
    return absl::OkStatus();
  }
  if (rules.values) {
    return EmitValues(alternative, rules, targets);
  }
  RETURN_IF_ERROR(EmitConstants(alternative, rules, targets));
  if ((rules.types & (kTypeInteger | kTypeNumber)) != 0) {
    RETURN_IF_ERROR(EmitNumber(alternative, rules, targets));
  }
  if ((rules.types & kTypeString) != 0) {
    RETURN_IF_ERROR(EmitString(alternative, rules, targets));
  }
  if ((rules.types & kTypeArray) != 0) {
    RETURN_IF_ERROR(EmitArray(alternative.nodes, rules, targets));
  }
  if ((rules.types & kTypeObject) != 0) {
    RETURN_IF_ERROR(EmitObject(alternative.nodes, rules, targets));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> SchemaEmitter::IsTakenAway(const std::vector<Conjunction>& without,
                                                const JsonValue& value) {
  for (const Conjunction& nodes : without) {
    ASSIGN_OR_RETURN(const bool allowed, rules_.Allow(nodes, value));
    if (allowed) {
      return true;
    }
  }
  return false;
}

absl::Status SchemaEmitter::EmitValues(const SchemaAlternative& alternative,
                                       const MergedRules& rules,
                                       Targets* targets) {
  std::vector<std::string> scalars;
  for (const JsonValue* value : *rules.values) {
    ASSIGN_OR_RETURN(const bool allowed, rules_.Allow(alternative.nodes, *value));
    ASSIGN_OR_RETURN(const bool is_taken_away, IsTakenAway(alternative.without, *value));
    if (!allowed || is_taken_away) {
      continue;
    }
    if (IsScalar(*value)) {
      scalars.push_back(ScalarText(*value));
    } else {
      RETURN_IF_ERROR(SpendOnConstant(*value, rules_.budget()));
      targets->push_back(Constant(*value, grammar_.Return()));
    }
  }
  if (!scalars.empty()) {
    std::string key = "|";
    for (const std::string& scalar : scalars) {
      key += scalar + '\n';
    }
    targets->push_back(
        grammar_.Match(terminals_.Add(key, LiteralsDfa(scalars)), grammar_.Return()));
  }
  return absl::OkStatus();
}

int32_t SchemaEmitter::Constant(const JsonValue& value, int32_t next) {
  if (IsScalar(value)) {
    return Text(ScalarText(value), next);
  }
  const bool is_array = value.kind == JsonValue::Kind::kArray;
  const size_t count = is_array ? value.items.size() : value.members.size();
  int32_t at = Text(is_array ? "]" : "}", next);
  if (count > 0) {
    at = Whitespace(at);
  }
  for (size_t i = count; i-- > 0;) {
    at = Constant(is_array ? value.items[i] : value.members[i].second, at);
    if (!is_array) {
      at = Text(QuotedText(value.members[i].first) + ":", Whitespace(at));
    }
    if (i > 0) {
      at = Comma(at);
    }
  }
  return Text(is_array ? "[" : "{", Whitespace(at));
}

absl::Status SchemaEmitter::EmitConstants(const SchemaAlternative& alternative,
                                          const MergedRules& rules,
                                          Targets* targets) {
  static const JsonValue constants[] = {{.kind = JsonValue::Kind::kNull},
                                        {.kind = JsonValue::Kind::kBoolean, .boolean = true},
                                        {.kind = JsonValue::Kind::kBoolean, .boolean = false}};
  for (const JsonValue& value : constants) {
    const uint8_t type = value.kind == JsonValue::Kind::kNull ? kTypeNull : kTypeBoolean;
    ASSIGN_OR_RETURN(const bool is_taken_away, IsTakenAway(alternative.without, value));
    if ((rules.types & type) != 0 && !is_taken_away) {
      targets->push_back(Text(ScalarText(value), grammar_.Return()));
    }
  }
  return absl::OkStatus();
}

absl::Status SchemaEmitter::EmitNumber(const SchemaAlternative& alternative,
                                       const MergedRules& rules,
                                       Targets* targets) {
  const bool is_integer = (rules.types & kTypeNumber) == 0;
  MergedRules spec = rules;
  spec.number.has_exponent = alternative.without.empty();
  ASSIGN_OR_RETURN(Dfa dfa, rules_.NumberDfa(spec, is_integer));
  for (const Conjunction& nodes : alternative.without) {
    ASSIGN_OR_RETURN(MergedRules other, rules_.Merge(nodes));
    if (other.values) {
      for (const JsonValue* value : *other.values) {
        ASSIGN_OR_RETURN(const bool allowed, rules_.Allow(nodes, *value));
        if (allowed && value->kind == JsonValue::Kind::kNumber) {
          return absl::InvalidArgumentError(fmt::format(
              "{}: oneOf between single numbers and others that may equal them is not supported",
              rules_.schema().node(nodes.front()).path));
        }
      }
      continue;
    }
    if (other.never || (other.types & (kTypeInteger | kTypeNumber)) == 0) {
      continue;
    }
    // Whole numbers may be written with a point.
    if ((other.types & kTypeNumber) == 0) {
      const Divisor one;
      other.number.divisor = other.number.divisor ? LeastCommonMultiple(*other.number.divisor, one)
                                                  : std::optional(one);
      if (!other.number.divisor) {
        return Budget::TooLarge();
      }
    }
    other.number.has_exponent = false;
    ASSIGN_OR_RETURN(const Dfa taken, rules_.NumberDfa(other, is_integer));
    ASSIGN_OR_RETURN(dfa, Subtract(dfa, taken, rules_.budget()));
  }
  if (!dfa.empty()) {
    const std::string key =
        alternative.without.empty() ? NumberKey(spec.number, is_integer) : UniqueKey(grammar_);
    targets->push_back(grammar_.Match(terminals_.Add(key, std::move(dfa)), grammar_.Return()));
  }
  return absl::OkStatus();
}

absl::StatusOr<Dfa> SchemaEmitter::StringsOf(const MergedRules& rules,
                                             const std::vector<Conjunction>& without) {
  ASSIGN_OR_RETURN(Dfa dfa, rules_.StringDfa(rules));
  for (const Conjunction& nodes : without) {
    ASSIGN_OR_RETURN(const MergedRules other, rules_.Merge(nodes));
    if (other.never || (other.types & kTypeString) == 0) {
      continue;
    }
    Dfa taken;
    if (other.values) {
      std::vector<std::string> texts;
      for (const JsonValue* value : *other.values) {
        ASSIGN_OR_RETURN(const bool allowed, rules_.Allow(nodes, *value));
        if (allowed && value->kind == JsonValue::Kind::kString) {
          texts.push_back(InForm(value->text, TextForm::kJsonString));
        }
      }
      taken = LiteralsDfa(texts);
    } else {
      ASSIGN_OR_RETURN(taken, rules_.StringDfa(other));
    }
    ASSIGN_OR_RETURN(dfa, Subtract(dfa, taken, rules_.budget()));
  }
  return dfa;
}

absl::Status SchemaEmitter::EmitString(const SchemaAlternative& alternative,
                                       const MergedRules& rules,
                                       Targets* targets) {
  if (rules.min_length > rules.max_length) {
    return absl::OkStatus();
  }
  const int32_t end = grammar_.Return();
  if (rules.patterns.empty() && rules.formats.empty() && alternative.without.empty()) {
    const bool is_any = rules.min_length == 0 && rules.max_length == MergedRules::kNoLimit;
    targets->push_back(
        is_any ? grammar_.Match(terminals_.AnyString(), end)
               : Text("\"",
                      grammar_.Match(terminals_.CountedString(Clamped(rules.min_length),
                                                              Clamped(rules.max_length)),
                                     end)));
    return absl::OkStatus();
  }
  const std::string key = alternative.without.empty() ? StringKey(rules) : UniqueKey(grammar_);
  int32_t terminal = terminals_.Find(key);
  if (terminal < 0) {
    ASSIGN_OR_RETURN(const Dfa body, StringsOf(rules, alternative.without));
    ASSIGN_OR_RETURN(Dfa quoted, Quoted(body, rules_.budget()));
    if (quoted.empty()) {
      return absl::OkStatus();
    }
    terminal = terminals_.Add(key, std::move(quoted));
  }
  targets->push_back(grammar_.Match(terminal, end));
  return absl::OkStatus();
}

absl::Status SchemaEmitter::EmitArray(const Conjunction& nodes,
                                      const MergedRules& rules,
                                      Targets* targets) {
  if (rules.min_items > rules.max_items) {
    return absl::OkStatus();
  }
  const auto item = [&](int64_t index, int32_t next) {
    return grammar_.Call(RuleOf(rules_.ItemNodes(nodes, static_cast<size_t>(index))), next);
  };
  const int32_t close = Whitespace(Text("]", grammar_.Return()));
  // So many items are written one by one, the rest in a loop.
  const int64_t num_single =
      std::min(rules.max_items, std::max<int64_t>(static_cast<int64_t>(rules.num_prefix), 1));
  const int64_t rest =
      rules.max_items == MergedRules::kNoLimit ? rules.max_items : rules.max_items - num_single;
  int32_t at = close;
  if (rest > 0) {
    const int32_t more = grammar_.AddRule();
    grammar_.SetRule(more, Comma(item(num_single, grammar_.Return())));
    at = grammar_.Repeat(
        more, Clamped(std::max<int64_t>(rules.min_items - num_single, 0)), Clamped(rest), close);
  } else if (rules.min_items > num_single) {
    return absl::OkStatus();
  }
  for (int64_t i = num_single; i-- > 1;) {
    Targets ways = {Comma(item(i, at))};
    if (i >= rules.min_items) {
      ways.push_back(close);
    }
    at = grammar_.Choice(ways);
  }
  Targets ways;
  if (num_single > 0) {
    ways.push_back(item(0, at));
  }
  if (rules.min_items == 0) {
    ways.push_back(Text("]", grammar_.Return()));
  }
  targets->push_back(Text("[", Whitespace(grammar_.Choice(ways))));
  return absl::OkStatus();
}

}  // namespace ringserve
