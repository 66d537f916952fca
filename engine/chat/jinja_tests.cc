// The tests of Jinja: what stands behind `is`.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "engine/chat/jinja_arguments.h"
#include "engine/chat/jinja_filters.h"
#include "engine/chat/jinja_objects.h"
#include "engine/chat/jinja_operators.h"
#include "engine/chat/python_case.h"

namespace ringserve::jinja {
namespace {

template <auto kPredicate>
absl::StatusOr<bool> Is(Interpreter& /*interpreter*/,
                        const Value& input,
                        const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("the test", arguments, {}).status());
  return kPredicate(input);
}

bool IsDefined(const Value& value) {
  return !value.is_undefined();
}

bool IsUndefined(const Value& value) {
  return value.is_undefined();
}

bool IsNone(const Value& value) {
  return value.is_none();
}

bool IsBoolean(const Value& value) {
  return value.is_bool();
}

bool IsTrueConstant(const Value& value) {
  return value.is_bool() && value.IsTrue();
}

bool IsFalseConstant(const Value& value) {
  return value.is_bool() && !value.IsTrue();
}

bool IsInteger(const Value& value) {
  return value.is_int();
}

bool IsFloatNumber(const Value& value) {
  return value.is_float();
}

bool IsNumber(const Value& value) {
  return value.is_number();
}

bool IsString(const Value& value) {
  return value.is_string();
}

bool IsMapping(const Value& value) {
  return value.is_dict();
}

bool IsIterable(const Value& value) {
  return value.is_iterable();
}

bool IsEscaped(const Value& /*value*/) {
  return false;
}

bool IsLowerText(const Value& value) {
  return IsLower(Str(value));
}

bool IsUpperText(const Value& value) {
  return IsUpper(Str(value));
}

bool IsSequence(const Value& value) {  // has a length and can be indexed
  return value.is_object() ? value.As<Range>() != nullptr || value.As<Group>() != nullptr
                           : value.Length().has_value();
}

bool IsCallable(const Value& value) {
  // Undefined has a __call__ that fails.
  return value.is_undefined() || (value.is_object() && value.object().is_callable());
}

template <bool kOdd>
absl::StatusOr<bool> HasParity(Interpreter& interpreter,
                               const Value& input,
                               const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("the test", arguments, {}).status());
  ASSIGN_OR_RETURN(const Value rest, ApplyBinary(interpreter, "%", input, Value::Int(2)));
  return Equal(rest, Value::Int(kOdd ? 1 : 0));
}

absl::StatusOr<bool> IsDivisibleBy(Interpreter& interpreter,
                                   const Value& input,
                                   const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("divisibleby", arguments, {"num"}, 1));
  ASSIGN_OR_RETURN(const Value rest, ApplyBinary(interpreter, "%", input, bound[0]));
  return Equal(rest, Value::Int(0));
}

absl::StatusOr<bool> IsSameAs(Interpreter& /*interpreter*/,
                              const Value& input,
                              const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("sameas", arguments, {"other"}, 1));
  return input.IsSame(bound[0]);
}

enum class Comparison { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn };

template <Comparison kComparison>
absl::StatusOr<bool> Compares(Interpreter& interpreter,
                              const Value& input,
                              const Arguments& arguments) {
  static constexpr std::array<std::string_view, 7> kNames = {
      "==", "!=", "<", "<=", ">", ">=", "in"};
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("the test", arguments, {"other"}, 1));
  return ApplyComparison(interpreter, kNames[static_cast<size_t>(kComparison)], input, bound[0]);
}

template <auto kFind>
absl::StatusOr<bool> IsNamed(Interpreter& /*interpreter*/,
                             const Value& input,
                             const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("the test", arguments, {}).status());
  return input.is_string() && kFind(input.bytes()) != nullptr;
}

struct NamedTest {
  std::string_view name;
  TestFunction function;
};

constexpr std::array kTests = {
    NamedTest{"!=", Compares<Comparison::kNotEqual>},
    NamedTest{"<", Compares<Comparison::kLess>},
    NamedTest{"<=", Compares<Comparison::kLessEqual>},
    NamedTest{"==", Compares<Comparison::kEqual>},
    NamedTest{">", Compares<Comparison::kGreater>},
    NamedTest{">=", Compares<Comparison::kGreaterEqual>},
    NamedTest{"boolean", Is<IsBoolean>},
    NamedTest{"callable", Is<IsCallable>},
    NamedTest{"defined", Is<IsDefined>},
    NamedTest{"divisibleby", IsDivisibleBy},
    NamedTest{"eq", Compares<Comparison::kEqual>},
    NamedTest{"equalto", Compares<Comparison::kEqual>},
    NamedTest{"escaped", Is<IsEscaped>},
    NamedTest{"even", HasParity<false>},
    NamedTest{"false", Is<IsFalseConstant>},
    NamedTest{"filter", IsNamed<FindFilter>},
    NamedTest{"float", Is<IsFloatNumber>},
    NamedTest{"ge", Compares<Comparison::kGreaterEqual>},
    NamedTest{"greaterthan", Compares<Comparison::kGreater>},
    NamedTest{"gt", Compares<Comparison::kGreater>},
    NamedTest{"in", Compares<Comparison::kIn>},
    NamedTest{"integer", Is<IsInteger>},
    NamedTest{"iterable", Is<IsIterable>},
    NamedTest{"le", Compares<Comparison::kLessEqual>},
    NamedTest{"lessthan", Compares<Comparison::kLess>},
    NamedTest{"lower", Is<IsLowerText>},
    NamedTest{"lt", Compares<Comparison::kLess>},
    NamedTest{"mapping", Is<IsMapping>},
    NamedTest{"ne", Compares<Comparison::kNotEqual>},
    NamedTest{"none", Is<IsNone>},
    NamedTest{"number", Is<IsNumber>},
    NamedTest{"odd", HasParity<true>},
    NamedTest{"sameas", IsSameAs},
    NamedTest{"sequence", Is<IsSequence>},
    NamedTest{"string", Is<IsString>},
    NamedTest{"test", IsNamed<FindTest>},
    NamedTest{"true", Is<IsTrueConstant>},
    NamedTest{"undefined", Is<IsUndefined>},
    NamedTest{"upper", Is<IsUpperText>},
};

}  // namespace

TestFunction FindTest(std::string_view name) {
  const auto* const found = std::find_if(
      kTests.begin(), kTests.end(), [name](const NamedTest& test) { return test.name == name; });
  return found == kTests.end() ? nullptr : found->function;
}

}  // namespace ringserve::jinja
