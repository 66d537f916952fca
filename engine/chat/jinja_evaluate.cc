// The expressions of a template.
#include <array>

#include <fmt/format.h>

#include "engine/chat/jinja_arguments.h"
#include "engine/chat/jinja_interpreter.h"
#include "engine/chat/jinja_objects.h"
#include "engine/chat/jinja_operators.h"

namespace ringserve::jinja {
namespace {

absl::Status UseOfUndefined(const Value& value) {
  return absl::InvalidArgumentError(value.why_undefined());
}

// How Jinja's errors name the type of an object.
std::string DescribeType(const Value& value) {
  return value.is_none() ? "None" : fmt::format("{} object", value.type_name());
}

Value NoAttribute(const Value& value, std::string_view name) {
  return Value::Undefined(fmt::format("'{}' has no attribute {}", DescribeType(value), name));
}

std::optional<Value> FindItem(const Value& value, const Value& key, Budget* budget) {
  if (value.is_dict()) {
    const Value* found = value.dict().Find(key);
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  if (!key.is_integral()) {
    return std::nullopt;
  }
  if (value.is_object()) {
    return value.object().Item(key.AsInt());
  }
  if (!value.is_list() && !value.is_tuple() && !value.is_string()) {
    return std::nullopt;
  }
  const int64_t length = *value.Length();
  const int64_t index = key.AsInt() < 0 ? key.AsInt() + length : key.AsInt();
  if (index < 0 || index >= length) {
    return std::nullopt;
  }
  return value.is_string() ? CharacterAt(value.text(), index, budget)
                           : value.elements()[static_cast<size_t>(index)];
}

}  // namespace

absl::StatusOr<Value> Interpreter::Evaluate(const Expression& expression) {
  RETURN_IF_ERROR(budget_.Enter());
  RETURN_IF_ERROR(budget_.Spend());
  ASSIGN_OR_RETURN(Value value, EvaluateKind(expression));
  budget_.Leave();
  const Extent extent = value.extent();
  if (extent.depth > budget_.limits().depth || extent.weight > budget_.limits().steps) {
    return absl::ResourceExhaustedError(
        fmt::format("a value nested deeper than {} or with more than {} parts",
                    budget_.limits().depth,
                    budget_.limits().steps));
  }
  return value;
}

absl::Status Interpreter::SpendOn(const Value& value) {
  return value.extent().weight > 1 ? budget_.Spend(value.extent().weight) : absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::EvaluateKind(const Expression& expression) {
  const auto& operands = expression.operands;
  switch (expression.kind) {
    case Expression::Kind::kConstant:
      return expression.value;
    case Expression::Kind::kName:
      return EvaluateName(expression);
    case Expression::Kind::kTuple: {
      ASSIGN_OR_RETURN(List elements, EvaluateAll(operands));
      return Value::MakeTuple(std::move(elements));
    }
    case Expression::Kind::kList: {
      ASSIGN_OR_RETURN(List elements, EvaluateAll(operands));
      return Value::MakeList(std::move(elements));
    }
    case Expression::Kind::kDict:
      return EvaluateDict(expression);
    case Expression::Kind::kAttribute: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*operands[0]));
      return Attribute(value, expression.name);
    }
    case Expression::Kind::kItem:
      return EvaluateItem(expression);
    case Expression::Kind::kSlice:
      return TypeError("a slice among several indices");
    case Expression::Kind::kCall:
      return EvaluateCall(expression);
    case Expression::Kind::kFilter:
      return EvaluateFilter(expression, nullptr);
    case Expression::Kind::kTest:
      return EvaluateTest(expression);
    case Expression::Kind::kNegative:
    case Expression::Kind::kPositive: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*operands[0]));
      return ApplySign(expression.kind == Expression::Kind::kNegative, value);
    }
    case Expression::Kind::kNot: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*operands[0]));
      return Value::Bool(!value.IsTrue());
    }
    case Expression::Kind::kAnd:
    case Expression::Kind::kOr: {
      ASSIGN_OR_RETURN(Value left, Evaluate(*operands[0]));
      const bool decides = left.IsTrue() == (expression.kind == Expression::Kind::kOr);
      return decides ? std::move(left) : Evaluate(*operands[1]);
    }
    case Expression::Kind::kBinary: {
      ASSIGN_OR_RETURN(const Value left, Evaluate(*operands[0]));
      ASSIGN_OR_RETURN(const Value right, Evaluate(*operands[1]));
      return ApplyBinary(*this, expression.name, left, right);
    }
    case Expression::Kind::kConcat:
      return EvaluateConcat(expression);
    case Expression::Kind::kCompare:
      return EvaluateCompare(expression);
    case Expression::Kind::kConditional:
      return EvaluateConditional(expression);
  }
  return Value::None();
}

absl::StatusOr<List> Interpreter::EvaluateAll(const std::vector<ExpressionPointer>& expressions) {
  List values;
  values.reserve(expressions.size());
  for (const ExpressionPointer& expression : expressions) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expression));
    values.push_back(std::move(value));
  }
  return values;
}

absl::StatusOr<Value> Interpreter::EvaluateName(const Expression& expression) {
  const Value* value = scope_->Find(expression.name);
  return value != nullptr ? *value
                          : Value::Undefined(fmt::format("'{}' is undefined", expression.name));
}

absl::StatusOr<Value> Interpreter::EvaluateDict(const Expression& expression) {
  Dict dict;
  for (size_t i = 0; i < expression.operands.size(); i += 2) {
    ASSIGN_OR_RETURN(const Value key, Evaluate(*expression.operands[i]));
    ASSIGN_OR_RETURN(Value value, Evaluate(*expression.operands[i + 1]));
    RETURN_IF_ERROR(SpendOn(key));
    RETURN_IF_ERROR(dict.Set(key, std::move(value)));
  }
  return Value::MakeDict(std::move(dict));
}

absl::StatusOr<Value> Interpreter::EvaluateItem(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value value, Evaluate(*expression.operands[0]));
  if (expression.operands[1]->kind == Expression::Kind::kSlice) {
    return EvaluateSlice(*expression.operands[1], value);
  }
  ASSIGN_OR_RETURN(const Value key, Evaluate(*expression.operands[1]));
  RETURN_IF_ERROR(SpendOn(key));
  return Item(value, key);
}

absl::StatusOr<Value> Interpreter::EvaluateSlice(const Expression& slice, const Value& value) {
  std::array<Value, 3> bounds;
  for (size_t i = 0; i < 3; ++i) {
    bounds[i] = Value::None();
    if (slice.operands[i]) {
      ASSIGN_OR_RETURN(bounds[i], Evaluate(*slice.operands[i]));
    }
  }
  if (value.is_undefined()) {
    return UseOfUndefined(value);
  }
  return Slice(*this, value, bounds);
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const CallArguments& arguments) {
  Arguments values;
  ASSIGN_OR_RETURN(values.positional, EvaluateAll(arguments.positional));
  if (arguments.more_positional) {
    ASSIGN_OR_RETURN(const Value more, Evaluate(*arguments.more_positional));
    ASSIGN_OR_RETURN(const List elements, Elements(more));
    values.positional.insert(values.positional.end(), elements.begin(), elements.end());
  }
  for (const auto& [name, expression] : arguments.named) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expression));
    values.named.emplace_back(name, std::move(value));
  }
  if (arguments.more_named) {
    ASSIGN_OR_RETURN(const Value more, Evaluate(*arguments.more_named));
    if (!more.is_dict()) {
      return TypeError(fmt::format("'{}' object is not a mapping", more.type_name()));
    }
    for (const auto& [key, value] : more.dict().entries()) {
      if (!key.is_string()) {
        return TypeError("the names of arguments must be strings");
      }
      values.named.emplace_back(key.bytes(), value);
    }
  }
  return values;
}

absl::StatusOr<Value> Interpreter::EvaluateCall(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value callee, Evaluate(*expression.operands[0]));
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression.arguments));
  return Call(callee, arguments);
}

absl::StatusOr<Value> Interpreter::Call(const Value& callee, const Arguments& arguments) {
  if (callee.is_undefined()) {
    return UseOfUndefined(callee);
  }
  if (!callee.is_object() || !callee.object().is_callable()) {
    return TypeError(fmt::format("'{}' object is not callable", callee.type_name()));
  }
  return callee.object().Call(*this, arguments);
}

absl::StatusOr<Value> Interpreter::EvaluateFilter(const Expression& expression,
                                                  const Value* input) {
  Value operand;
  if (expression.operands.empty()) {
    operand = *input;
  } else if (input != nullptr) {
    ASSIGN_OR_RETURN(operand, EvaluateFilter(*expression.operands[0], input));
  } else {
    ASSIGN_OR_RETURN(operand, Evaluate(*expression.operands[0]));
  }
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression.arguments));
  return Filter(expression.name, operand, arguments);
}

absl::StatusOr<Value> Interpreter::EvaluateTest(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value operand, Evaluate(*expression.operands[0]));
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression.arguments));
  ASSIGN_OR_RETURN(const bool passes, Test(expression.name, operand, arguments));
  return Value::Bool(passes);
}

absl::StatusOr<Value> Interpreter::EvaluateConcat(const Expression& expression) {
  std::string text;
  for (const ExpressionPointer& operand : expression.operands) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*operand));
    RETURN_IF_ERROR(SpendOn(value));
    text += value.is_string() ? value.bytes() : Str(value);
    RETURN_IF_ERROR(budget_.CheckSize(static_cast<double>(text.size())));
  }
  return String(std::move(text));
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expression& expression) {
  ASSIGN_OR_RETURN(Value left, Evaluate(*expression.operands[0]));
  for (size_t i = 0; i < expression.comparisons.size(); ++i) {
    ASSIGN_OR_RETURN(Value right, Evaluate(*expression.operands[i + 1]));
    RETURN_IF_ERROR(SpendOn(left));
    RETURN_IF_ERROR(SpendOn(right));
    ASSIGN_OR_RETURN(const bool holds,
                     ApplyComparison(*this, expression.comparisons[i], left, right));
    if (!holds) {
      return Value::Bool(false);
    }
    left = std::move(right);
  }
  return Value::Bool(true);
}

absl::StatusOr<Value> Interpreter::EvaluateConditional(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value condition, Evaluate(*expression.operands[0]));
  if (condition.IsTrue()) {
    return Evaluate(*expression.operands[1]);
  }
  if (expression.operands[2] == nullptr) {
    return Value::Undefined(
        fmt::format("the inline if of line {} was false and has no else", expression.line));
  }
  return Evaluate(*expression.operands[2]);
}

absl::StatusOr<Value> Interpreter::Attribute(const Value& value, std::string_view name) {
  if (value.is_undefined()) {
    return UseOfUndefined(value);
  }
  if (std::optional<Value> method = FindMethod(value, name)) {
    return *std::move(method);
  }
  if (value.is_object()) {
    if (std::optional<Value> attribute = value.object().Attribute(name)) {
      return *std::move(attribute);
    }
  }
  if (value.is_dict()) {
    if (const Value* item = value.dict().FindString(name)) {
      return *item;
    }
  }
  return NoAttribute(value, fmt::format("'{}'", name));
}

absl::StatusOr<Value> Interpreter::Item(const Value& value, const Value& key) {
  if (value.is_undefined()) {
    return UseOfUndefined(value);
  }
  if (std::optional<Value> item = FindItem(value, key, &budget_)) {
    return *std::move(item);
  }
  if (key.is_string()) {
    return Attribute(value, key.bytes());
  }
  return NoAttribute(value, Repr(key));
}

}  // namespace ringserve::jinja
