#include "engine/chat/jinja_filters.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include <fmt/format.h>

#include "engine/chat/jinja_arguments.h"
#include "engine/chat/python_case.h"
#include "engine/chat/python_text.h"

namespace ringserve::jinja {

FilterFunction FindFilter(std::string_view name) {
  for (const std::span<const NamedFilter> filters :
       {TextFilters(), SequenceFilters(), SelectFilters()}) {
    const auto found = std::find_if(
        filters.begin(), filters.end(), [name](const NamedFilter& f) { return f.name == name; });
    if (found != filters.end()) {
      return found->function;
    }
  }
  return nullptr;
}

absl::StatusOr<Value> Interpreter::Filter(std::string_view name,
                                          const Value& input,
                                          const Arguments& arguments) {
  const FilterFunction filter = FindFilter(name);
  if (filter == nullptr) {
    return absl::InvalidArgumentError(fmt::format("there is no filter '{}'", name));
  }
  RETURN_IF_ERROR(SpendOn(input));
  return filter(*this, input, arguments);
}

absl::StatusOr<bool> Interpreter::Test(std::string_view name,
                                       const Value& input,
                                       const Arguments& arguments) {
  const TestFunction test = FindTest(name);
  if (test == nullptr) {
    return absl::InvalidArgumentError(fmt::format("there is no test '{}'", name));
  }
  RETURN_IF_ERROR(SpendOn(input));
  return test(*this, input, arguments);
}

absl::StatusOr<Value> LookUpPath(Interpreter& interpreter,
                                 const Value& item,
                                 const Value& path,
                                 const std::optional<Value>& otherwise) {
  Value value = item;
  if (!path.is_string()) {
    ASSIGN_OR_RETURN(value, interpreter.Item(value, path));
  } else {
    for (const std::string_view part : Split(path.bytes(), ".", -1)) {
      int64_t index = 0;
      const auto result = std::from_chars(part.data(), part.data() + part.size(), index);
      const bool is_index = !part.empty() && result.ptr == part.data() + part.size();
      ASSIGN_OR_RETURN(
          value,
          interpreter.Item(value,
                           is_index ? Value::Int(index) : interpreter.String(std::string(part))));
      if (value.is_undefined() && otherwise) {
        return *otherwise;
      }
    }
  }
  return value.is_undefined() && otherwise ? *otherwise : value;
}

Value SortKey(Interpreter& interpreter, const Value& value, bool case_sensitive) {
  return value.is_string() && !case_sensitive ? interpreter.String(ToLower(value.bytes())) : value;
}

absl::StatusOr<List> SortByKeys(const List& elements, const List& keys, bool reverse) {
  std::vector<size_t> order(elements.size());
  std::iota(order.begin(), order.end(), size_t{0});
  absl::Status error;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const absl::StatusOr<int> compared = Compare(keys[reverse ? b : a], keys[reverse ? a : b]);
    error = compared.ok() ? error : compared.status();
    return compared.ok() && *compared < 0;
  });
  RETURN_IF_ERROR(error);
  List sorted;
  sorted.reserve(elements.size());
  for (const size_t index : order) {
    sorted.push_back(elements[index]);
  }
  return sorted;
}

}  // namespace ringserve::jinja
