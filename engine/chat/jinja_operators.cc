#include "engine/chat/jinja_operators.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "engine/chat/jinja_arguments.h"
#include "engine/chat/python_format.h"
#include "engine/chat/python_text.h"

namespace ringserve::jinja {
namespace {

absl::Status Overflow() {
  return TypeError("an integer does not fit in 64 bits");
}

absl::Status DivisionByZero() {
  return TypeError("division by zero");
}

absl::Status WrongOperands(std::string_view name, const Value& a, const Value& b) {
  for (const Value* operand : {&a, &b}) {
    if (operand->is_undefined()) {
      return absl::InvalidArgumentError(operand->why_undefined());
    }
  }
  return TypeError(fmt::format(
      "unsupported operand types for {}: '{}' and '{}'", name, a.type_name(), b.type_name()));
}

int64_t FloorDivide(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

absl::StatusOr<Value> IntPower(int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) {
      return Overflow();
    }
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) {
      return Overflow();
    }
  }
  return Value::Int(result);
}

absl::StatusOr<Value> ApplyToInts(std::string_view name, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflows = false;
  if (name == "+") {
    overflows = __builtin_add_overflow(a, b, &result);
  } else if (name == "-") {
    overflows = __builtin_sub_overflow(a, b, &result);
  } else if (name == "*") {
    overflows = __builtin_mul_overflow(a, b, &result);
  } else if (name == "**") {
    return b >= 0   ? IntPower(a, b)
           : a == 0 ? absl::StatusOr<Value>(DivisionByZero())
                    : Value::Float(std::pow(static_cast<double>(a), static_cast<double>(b)));
  } else if (b == 0) {
    return DivisionByZero();
  } else if (name == "/") {
    return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  } else if (b == -1) {  // the one quotient that overflows
    overflows = name == "//" && __builtin_sub_overflow(int64_t{0}, a, &result);
  } else {
    result = name == "//" ? FloorDivide(a, b) : a - FloorDivide(a, b) * b;
  }
  if (overflows) {
    return Overflow();
  }
  return Value::Int(result);
}

absl::StatusOr<Value> ApplyToFloats(std::string_view name, double a, double b) {
  if (name == "+") {
    return Value::Float(a + b);
  }
  if (name == "-") {
    return Value::Float(a - b);
  }
  if (name == "*") {
    return Value::Float(a * b);
  }
  if (name == "**") {
    return a == 0 && b < 0 ? absl::StatusOr<Value>(DivisionByZero()) : Value::Float(std::pow(a, b));
  }
  if (b == 0) {
    return DivisionByZero();
  }
  if (name == "/") {
    return Value::Float(a / b);
  }
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) {
    remainder += b;
  }
  return Value::Float(name == "%" ? remainder : std::floor((a - remainder) / b + 0.5));
}

absl::StatusOr<Value> Repeat(Interpreter& interpreter, const Value& value, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (value.is_string()) {
    RETURN_IF_ERROR(interpreter.budget()->CheckSize(static_cast<double>(value.bytes().size()) *
                                                    static_cast<double>(times)));
    std::string text;
    for (int64_t i = 0; i < times && !value.bytes().empty(); ++i) {
      text += value.bytes();
    }
    return interpreter.String(std::move(text));
  }
  const double size = static_cast<double>(value.elements().size()) * static_cast<double>(times);
  RETURN_IF_ERROR(interpreter.budget()->CheckSize(size * sizeof(Value)));
  RETURN_IF_ERROR(interpreter.budget()->Spend(static_cast<int64_t>(size)));
  List elements;
  for (int64_t i = 0; i < times && !value.elements().empty(); ++i) {
    elements.insert(elements.end(), value.elements().begin(), value.elements().end());
  }
  return value.is_list() ? Value::MakeList(std::move(elements))
                         : Value::MakeTuple(std::move(elements));
}

absl::StatusOr<std::optional<Value>> ApplyToSequences(Interpreter& interpreter,
                                                      std::string_view name,
                                                      const Value& a,
                                                      const Value& b) {
  const auto is_sequence = [](const Value& value) {
    return value.is_string() || value.is_list() || value.is_tuple();
  };
  if (name == "%" && a.is_string()) {
    RETURN_IF_ERROR(interpreter.SpendOn(b));
    ASSIGN_OR_RETURN(std::string text, PercentFormat(interpreter.budget(), a.bytes(), b));
    return interpreter.String(std::move(text));
  }
  if (name == "*" && is_sequence(a) && b.is_integral()) {
    return Repeat(interpreter, a, b.AsInt());
  }
  if (name == "*" && a.is_integral() && is_sequence(b)) {
    return Repeat(interpreter, b, a.AsInt());
  }
  if (name != "+" || a.type() != b.type() || !is_sequence(a)) {
    return std::optional<Value>();
  }
  if (a.is_string()) {
    return interpreter.String(a.bytes() + b.bytes());
  }
  RETURN_IF_ERROR(interpreter.budget()->Spend(*a.Length() + *b.Length()));
  List elements = a.elements();
  elements.insert(elements.end(), b.elements().begin(), b.elements().end());
  return a.is_list() ? Value::MakeList(std::move(elements)) : Value::MakeTuple(std::move(elements));
}

// Python's rules for one bound of a slice.
int64_t ClampIndex(int64_t index, int64_t length, int64_t low, int64_t high) {
  return std::clamp(index < 0 ? index + length : index, low, high);
}

}  // namespace

absl::StatusOr<Value> ApplyBinary(Interpreter& interpreter,
                                  std::string_view name,
                                  const Value& a,
                                  const Value& b) {
  if (a.is_number() && b.is_number()) {
    return a.is_integral() && b.is_integral() ? ApplyToInts(name, a.AsInt(), b.AsInt())
                                              : ApplyToFloats(name, a.AsDouble(), b.AsDouble());
  }
  ASSIGN_OR_RETURN(std::optional<Value> result, ApplyToSequences(interpreter, name, a, b));
  if (!result) {
    return WrongOperands(name, a, b);
  }
  return *std::move(result);
}

absl::StatusOr<Value> ApplySign(bool negative, const Value& value) {
  if (value.is_undefined()) {
    return absl::InvalidArgumentError(value.why_undefined());
  }
  if (!value.is_number()) {
    return TypeError(fmt::format("bad operand type for a sign: '{}'", value.type_name()));
  }
  if (value.is_float()) {
    return Value::Float(negative ? -value.AsDouble() : value.AsDouble());
  }
  return ApplyToInts(negative ? "-" : "+", 0, value.AsInt());
}

absl::StatusOr<bool> ApplyComparison(Interpreter& interpreter,
                                     std::string_view name,
                                     const Value& a,
                                     const Value& b) {
  if (name == "==" || name == "!=") {
    return Equal(a, b) == (name == "==");
  }
  if (name == "in" || name == "not in") {
    ASSIGN_OR_RETURN(const bool contains, Contains(interpreter, b, a));
    return contains == (name == "in");
  }
  if (a.is_undefined() || b.is_undefined()) {
    return WrongOperands(name, a, b);
  }
  const bool is_nan =
      (a.is_float() && std::isnan(a.AsDouble())) || (b.is_float() && std::isnan(b.AsDouble()));
  ASSIGN_OR_RETURN(const int order, Compare(a, b));
  return !is_nan && (name == "<"    ? order < 0
                     : name == "<=" ? order <= 0
                     : name == ">"  ? order > 0
                                    : order >= 0);
}

absl::StatusOr<bool> Contains(Interpreter& interpreter,
                              const Value& container,
                              const Value& value) {
  if (container.is_dict()) {
    if (value.is_list() || value.is_dict()) {
      return TypeError(fmt::format("unhashable type: '{}'", value.type_name()));
    }
    return container.dict().Find(value) != nullptr;
  }
  if (container.is_string()) {
    if (value.is_undefined()) {
      return absl::InvalidArgumentError(value.why_undefined());
    }
    if (!value.is_string()) {
      return TypeError(
          fmt::format("'in <string>' requires string as left operand, not {}", value.type_name()));
    }
    return container.bytes().find(value.bytes()) != std::string::npos;
  }
  if (!container.is_iterable()) {
    return TypeError(fmt::format("argument of type '{}' is not iterable", container.type_name()));
  }
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(container));
  return std::any_of(elements.begin(), elements.end(), [&value](const Value& element) {
    return Equal(element, value);
  });
}

absl::StatusOr<Value> Slice(Interpreter& interpreter,
                            const Value& value,
                            const std::array<Value, 3>& bounds) {
  const auto* const range = value.As<Range>();
  if (!value.is_string() && !value.is_list() && !value.is_tuple() && range == nullptr) {
    return TypeError(fmt::format("'{}' object cannot be sliced", value.type_name()));
  }
  for (const Value& bound : bounds) {
    if (!bound.is_none() && !bound.is_integral()) {
      return TypeError("the bounds of a slice must be integers or None");
    }
  }
  const int64_t length = *value.Length();
  const int64_t step = bounds[2].is_none() ? 1 : bounds[2].AsInt();
  if (step == 0) {
    return TypeError("the step of a slice cannot be zero");
  }
  const int64_t low = step > 0 ? 0 : -1;
  const int64_t high = step > 0 ? length : length - 1;
  const int64_t start = bounds[0].is_none() ? (step > 0 ? low : high)
                                            : ClampIndex(bounds[0].AsInt(), length, low, high);
  const int64_t stop = bounds[1].is_none() ? (step > 0 ? high : low)
                                           : ClampIndex(bounds[1].AsInt(), length, low, high);
  if (range != nullptr) {
    return Value::FromObject(std::make_shared<Range>(range->Slice(start, stop, step)));
  }
  if (value.is_string() && step == 1) {
    const std::string_view bytes = value.bytes();
    const size_t begin = ByteOffset(bytes, static_cast<size_t>(start));
    const size_t count =
        ByteOffset(bytes.substr(begin), static_cast<size_t>(std::max<int64_t>(stop - start, 0)));
    return interpreter.String(std::string(bytes.substr(begin, count)));
  }
  ASSIGN_OR_RETURN(const List all, interpreter.Elements(value));
  List elements;
  // Steps longer than the sequence are one step; so the index cannot overflow.
  const int64_t stride = std::clamp(step, -length - 1, length + 1);
  for (int64_t i = start; step > 0 ? i < stop : i > stop; i += stride) {
    elements.push_back(all[static_cast<size_t>(i)]);
  }
  if (value.is_string()) {
    std::string text;
    for (const Value& element : elements) {
      text += element.bytes();
    }
    return interpreter.String(std::move(text));
  }
  return value.is_list() ? Value::MakeList(std::move(elements))
                         : Value::MakeTuple(std::move(elements));
}

Value CharacterAt(const Text& text, int64_t index, Budget* budget) {
  const std::string_view bytes = text.bytes();
  const size_t begin =
      text.is_ascii() ? static_cast<size_t>(index) : ByteOffset(bytes, static_cast<size_t>(index));
  const size_t end = begin + ByteOffset(bytes.substr(begin), 1);
  return Value::String(std::string(bytes.substr(begin, end - begin)), budget);
}

}  // namespace ringserve::jinja
