// Filters that apply a filter or a test to each element.
#include <array>

#include <fmt/format.h>

#include "engine/chat/jinja_arguments.h"
#include "engine/chat/jinja_filters.h"

namespace ringserve::jinja {
namespace {

// The arguments behind the first `count`.
Arguments Without(const Arguments& arguments, size_t count) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<ptrdiff_t>(count));
  return rest;
}

// These filters take everything that is false (None, 0) for an empty sequence.
absl::StatusOr<List> ElementsOrNone(Interpreter& interpreter, const Value& input) {
  return input.IsTrue() ? interpreter.Elements(input) : List();
}

absl::StatusOr<std::string> NameAt(const Arguments& arguments, size_t index) {
  if (!arguments.positional[index].is_string()) {
    return TypeError("the name of a filter or test must be a string");
  }
  return arguments.positional[index].bytes();
}

absl::StatusOr<Value> Map(Interpreter& interpreter,
                          const Value& input,
                          const Arguments& arguments) {
  ASSIGN_OR_RETURN(const List elements, ElementsOrNone(interpreter, input));
  List mapped;
  if (arguments.positional.empty()) {
    ASSIGN_OR_RETURN(const BoundArguments bound,
                     BoundArguments::Bind("map", arguments, {"attribute", "default"}, 1));
    for (const Value& element : elements) {
      ASSIGN_OR_RETURN(Value value,
                       LookUpPath(interpreter,
                                  element,
                                  bound[0],
                                  bound.Has(1) ? std::optional(bound[1]) : std::nullopt));
      mapped.push_back(std::move(value));
    }
  } else {
    ASSIGN_OR_RETURN(const std::string name, NameAt(arguments, 0));
    const Arguments rest = Without(arguments, 1);
    for (const Value& element : elements) {
      RETURN_IF_ERROR(interpreter.budget()->Spend());
      ASSIGN_OR_RETURN(Value value, interpreter.Filter(name, element, rest));
      mapped.push_back(std::move(value));
    }
  }
  return Value::FromObject(std::make_shared<Iterator>(std::move(mapped)));
}

template <bool kKeep, bool kByAttribute>
absl::StatusOr<Value> Select(Interpreter& interpreter,
                             const Value& input,
                             const Arguments& arguments) {
  constexpr size_t kFirst = kByAttribute ? 1 : 0;
  if (arguments.positional.size() < kFirst) {
    return TypeError("Missing parameter for attribute name");
  }
  const bool has_test = arguments.positional.size() > kFirst;
  std::string name;
  if (has_test) {
    ASSIGN_OR_RETURN(name, NameAt(arguments, kFirst));
  }
  const Arguments rest = Without(arguments, has_test ? kFirst + 1 : kFirst);
  ASSIGN_OR_RETURN(const List elements, ElementsOrNone(interpreter, input));
  List kept;
  for (const Value& element : elements) {
    RETURN_IF_ERROR(interpreter.budget()->Spend());
    Value value = element;
    if (kByAttribute) {
      ASSIGN_OR_RETURN(value, LookUpPath(interpreter, element, arguments.positional[0]));
    }
    bool passes = value.IsTrue();
    if (has_test) {
      ASSIGN_OR_RETURN(passes, interpreter.Test(name, value, rest));
    }
    if (passes == kKeep) {
      kept.push_back(element);
    }
  }
  return Value::FromObject(std::make_shared<Iterator>(std::move(kept)));
}

constexpr std::array kFilters = {
    NamedFilter{"map", Map},
    NamedFilter{"reject", Select<false, false>},
    NamedFilter{"rejectattr", Select<false, true>},
    NamedFilter{"select", Select<true, false>},
    NamedFilter{"selectattr", Select<true, true>},
};

}  // namespace

std::span<const NamedFilter> SelectFilters() {
  return kFilters;
}

}  // namespace ringserve::jinja
