#include "engine/chat/jinja_objects.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <limits>

#include <fmt/format.h>

#include "engine/chat/jinja_arguments.h"

namespace ringserve::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // as in Jinja's sandbox

Value MakeFunction(std::string_view name, Native native, Value self = Value::None()) {
  return Value::FromObject(std::make_shared<Function>(name, native, std::move(self)));
}

absl::StatusOr<Value> CallRange(Interpreter& /*interpreter*/,
                                const Value& /*self*/,
                                const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("range", arguments, {"start", "stop", "step"}, 1));
  ASSIGN_OR_RETURN(const int64_t first, bound.Int(0, 0));
  ASSIGN_OR_RETURN(const int64_t second, bound.Int(1, 0));
  ASSIGN_OR_RETURN(const int64_t step, bound.Int(2, 1));
  const int64_t start = bound.Has(1) ? first : 0;
  const int64_t stop = bound.Has(1) ? second : first;
  if (step == 0) {
    return TypeError("range(): the step must not be zero");
  }
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 4;
  if (std::max({std::abs(start), std::abs(stop), std::abs(step)}) > kMost) {
    return TypeError("range(): a bound is too large");
  }
  auto range = std::make_shared<Range>(start, stop, step);
  if (*range->Length() > kMaxRange) {
    return absl::ResourceExhaustedError(fmt::format("a range of more than {} numbers", kMaxRange));
  }
  return Value::FromObject(std::move(range));
}

// dict(...) and namespace(...): a mapping or pairs, then names.
absl::StatusOr<Dict> CollectDict(Interpreter& interpreter, const Arguments& arguments) {
  Dict dict;
  if (arguments.positional.size() > 1) {
    return TypeError("dict expected at most 1 argument");
  }
  for (const Value& source : arguments.positional) {
    if (source.is_dict()) {
      dict = source.dict();
      continue;
    }
    ASSIGN_OR_RETURN(const List pairs, interpreter.Elements(source));
    for (const Value& pair : pairs) {
      ASSIGN_OR_RETURN(const List parts, interpreter.Elements(pair));
      if (parts.size() != 2) {
        return TypeError("dict(): every element must be a pair");
      }
      RETURN_IF_ERROR(dict.Set(parts[0], parts[1]));
    }
  }
  for (const auto& [name, value] : arguments.named) {
    dict.SetString(name, value);
  }
  return dict;
}

absl::StatusOr<Value> CallDict(Interpreter& interpreter,
                               const Value& /*self*/,
                               const Arguments& arguments) {
  ASSIGN_OR_RETURN(Dict dict, CollectDict(interpreter, arguments));
  return Value::MakeDict(std::move(dict));
}

absl::StatusOr<Value> CallNamespace(Interpreter& interpreter,
                                    const Value& /*self*/,
                                    const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Dict dict, CollectDict(interpreter, arguments));
  const std::shared_ptr<Namespace> space = interpreter.MakeNamespace();
  for (const auto& [name, value] : dict.entries()) {
    space->Set(Str(name), value);
  }
  return Value::FromObject(space);
}

absl::StatusOr<Value> CallCycler(Interpreter& /*interpreter*/,
                                 const Value& /*self*/,
                                 const Arguments& arguments) {
  if (arguments.positional.empty()) {
    return TypeError("cycler() needs at least one element");
  }
  return Value::FromObject(std::make_shared<Cycler>(arguments.positional));
}

absl::StatusOr<Value> CallJoiner(Interpreter& interpreter,
                                 const Value& /*self*/,
                                 const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound, BoundArguments::Bind("joiner", arguments, {"sep"}));
  return Value::FromObject(
      std::make_shared<Joiner>(bound.Has(0) ? bound[0] : interpreter.String(", ")));
}

absl::StatusOr<Value> CallRaiseException(Interpreter& /*interpreter*/,
                                         const Value& /*self*/,
                                         const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("raise_exception", arguments, {"message"}, 1));
  return absl::InvalidArgumentError(Str(bound[0]));
}

absl::StatusOr<Value> CallStrftimeNow(Interpreter& interpreter,
                                      const Value& /*self*/,
                                      const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("strftime_now", arguments, {"format"}, 1));
  ASSIGN_OR_RETURN(const std::string_view format, bound.String(0, ""));
  const std::tm time = absl::ToTM(interpreter.now(), interpreter.zone());
  // strftime returns 0 both for an empty result and for a buffer that is too small.
  std::array<char, 1024> buffer;
  const size_t size =
      std::strftime(buffer.data(), buffer.size(), std::string(format).c_str(), &time);
  if (size == 0 && !format.empty()) {
    return TypeError("strftime_now(): the format is too long");
  }
  return interpreter.String(std::string(buffer.data(), size));
}

absl::StatusOr<Value> CallLoopCycle(Interpreter& /*interpreter*/,
                                    const Value& self,
                                    const Arguments& arguments) {
  if (arguments.positional.empty()) {
    return TypeError("loop.cycle() needs at least one element");
  }
  return arguments.positional[self.As<LoopState>()->index() % arguments.positional.size()];
}

absl::StatusOr<Value> CallLoopChanged(Interpreter& /*interpreter*/,
                                      const Value& self,
                                      const Arguments& arguments) {
  return Value::Bool(self.As<LoopState>()->Changed(arguments.positional));
}

absl::StatusOr<Value> CallCyclerNext(Interpreter& /*interpreter*/,
                                     const Value& self,
                                     const Arguments& /*arguments*/) {
  return self.As<Cycler>()->Next();
}

absl::StatusOr<Value> CallCyclerReset(Interpreter& /*interpreter*/,
                                      const Value& self,
                                      const Arguments& /*arguments*/) {
  self.As<Cycler>()->Reset();
  return Value::None();
}

}  // namespace

std::optional<Value> Macro::Attribute(std::string_view name) const {
  if (name == "name") {
    return Value::String(statement_.text, nullptr);
  }
  if (name != "arguments") {
    return std::nullopt;
  }
  List names;
  for (const Parameter& parameter : statement_.parameters) {
    names.push_back(Value::String(parameter.name, nullptr));
  }
  return Value::MakeTuple(std::move(names));
}

std::optional<Value> LoopState::Attribute(std::string_view name) const {
  const auto index = static_cast<int64_t>(index_);
  const auto length = static_cast<int64_t>(elements_.size());
  if (name == "index" || name == "index0") {
    return Value::Int(name == "index" ? index + 1 : index);
  }
  if (name == "revindex" || name == "revindex0") {
    return Value::Int(length - index - (name == "revindex" ? 0 : 1));
  }
  if (name == "first" || name == "last") {
    return Value::Bool(name == "first" ? index == 0 : index + 1 == length);
  }
  if (name == "length") {
    return Value::Int(length);
  }
  if (name == "depth" || name == "depth0") {
    return Value::Int(depth0_ + (name == "depth" ? 1 : 0));
  }
  if (name == "previtem") {
    return index > 0 ? elements_[index_ - 1] : Value::Undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < length ? elements_[index_ + 1] : Value::Undefined("there is no next item");
  }
  if (name == "cycle" || name == "changed") {
    // The function shares the loop with the loop's own variable: both may outlive the other.
    return MakeFunction(name == "cycle" ? "cycle" : "changed",
                        name == "cycle" ? CallLoopCycle : CallLoopChanged,
                        Value::FromObject(std::const_pointer_cast<LoopState>(shared_from_this())));
  }
  return std::nullopt;
}

absl::StatusOr<Value> LoopState::Call(Interpreter& interpreter, const Arguments& arguments) {
  if (!statement_.is_recursive) {
    return TypeError("the loop must have the 'recursive' marker to be called");
  }
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("loop", arguments, {"iterable"}, 1));
  return interpreter.RunLoopAgain(*this, bound[0]);
}

bool LoopState::Changed(const List& values) {
  Value now = Value::MakeTuple(values);
  const bool changed = !last_ || !Equal(*last_, now);
  last_ = std::move(now);
  return changed;
}

absl::StatusOr<Value> Joiner::Call(Interpreter& interpreter, const Arguments& /*arguments*/) {
  return std::exchange(was_used_, true) ? separator_ : interpreter.String("");
}

std::optional<Value> Cycler::Attribute(std::string_view name) const {
  if (name == "current") {
    return elements_[at_];
  }
  if (name == "next" || name == "reset") {
    return MakeFunction(name == "next" ? "next" : "reset",
                        name == "next" ? CallCyclerNext : CallCyclerReset,
                        Value::FromObject(std::const_pointer_cast<Cycler>(shared_from_this())));
  }
  return std::nullopt;
}

std::optional<Value> Group::Attribute(std::string_view name) const {
  return name == "grouper" ? std::optional(pair_[0])
         : name == "list"  ? std::optional(pair_[1])
                           : std::nullopt;
}

std::optional<Value> Group::Item(int64_t index) const {
  return index >= -2 && index < 2
             ? std::optional(pair_[static_cast<size_t>(index < 0 ? index + 2 : index)])
             : std::nullopt;
}

void AddGlobals(Scope* scope) {
  scope->Set("range", MakeFunction("range", CallRange));
  scope->Set("dict", MakeFunction("dict", CallDict));
  scope->Set("namespace", MakeFunction("namespace", CallNamespace));
  scope->Set("cycler", MakeFunction("cycler", CallCycler));
  scope->Set("joiner", MakeFunction("joiner", CallJoiner));
  scope->Set("raise_exception", MakeFunction("raise_exception", CallRaiseException));
  scope->Set("strftime_now", MakeFunction("strftime_now", CallStrftimeNow));
}

}  // namespace ringserve::jinja
