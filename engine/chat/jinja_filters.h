// The filters and tests of Jinja, in tables by name.
#pragma once

#include <span>
#include <string_view>

#include "engine/base/status.h"
#include "engine/chat/jinja_interpreter.h"
#include "engine/chat/jinja_value.h"

namespace ringserve::jinja {

using FilterFunction = absl::StatusOr<Value> (*)(Interpreter& interpreter,
                                                 const Value& input,
                                                 const Arguments& arguments);
using TestFunction = absl::StatusOr<bool> (*)(Interpreter& interpreter,
                                              const Value& input,
                                              const Arguments& arguments);

struct NamedFilter {
  std::string_view name;
  FilterFunction function;
};

std::span<const NamedFilter> TextFilters();      // jinja_text_filters.cc
std::span<const NamedFilter> SequenceFilters();  // jinja_sequence_filters.cc
std::span<const NamedFilter> SelectFilters();    // jinja_select_filters.cc

// Null if there is none.
FilterFunction FindFilter(std::string_view name);
TestFunction FindTest(std::string_view name);

// item.a.0.b of a filter's `attribute`: parts between dots, numbers are indices.
absl::StatusOr<Value> LookUpPath(Interpreter& interpreter,
                                 const Value& item,
                                 const Value& path,
                                 const std::optional<Value>& otherwise = {});
// Strings lower case unless `case_sensitive`; what sort, unique, min, max and groupby compare.
Value SortKey(Interpreter& interpreter, const Value& value, bool case_sensitive);
// Stable. `keys` and `elements` are of equal size.
absl::StatusOr<List> SortByKeys(const List& elements, const List& keys, bool reverse);

}  // namespace ringserve::jinja
