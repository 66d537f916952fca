// Filters of sequences: order, grouping, sums.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "engine/chat/jinja_arguments.h"
#include "engine/chat/jinja_filters.h"
#include "engine/chat/jinja_objects.h"
#include "engine/chat/jinja_operators.h"
#include "engine/chat/python_text.h"

namespace ringserve::jinja {
namespace {

Value MakeIterator(List elements) {
  return Value::FromObject(std::make_shared<Iterator>(std::move(elements)));
}

absl::StatusOr<Value> Length(Interpreter& /*interpreter*/,
                             const Value& input,
                             const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("length", arguments, {}).status());
  const std::optional<int64_t> length = input.Length();
  if (!length) {
    return TypeError(fmt::format("object of type '{}' has no len()", input.type_name()));
  }
  return Value::Int(*length);
}

absl::StatusOr<Value> First(Interpreter& interpreter,
                            const Value& input,
                            const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("first", arguments, {}).status());
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(input));
  return elements.empty() ? Value::Undefined("No first item, sequence was empty.")
                          : elements.front();
}

absl::StatusOr<Value> Last(Interpreter& interpreter,
                           const Value& input,
                           const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("last", arguments, {}).status());
  if (input.As<Iterator>() != nullptr) {
    return TypeError("'generator' object is not reversible");
  }
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(input));
  return elements.empty() ? Value::Undefined("No last item, sequence was empty.") : elements.back();
}

absl::StatusOr<Value> ToList(Interpreter& interpreter,
                             const Value& input,
                             const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("list", arguments, {}).status());
  ASSIGN_OR_RETURN(List elements, interpreter.Elements(input));
  return Value::MakeList(std::move(elements));
}

absl::StatusOr<Value> Items(Interpreter& interpreter,
                            const Value& input,
                            const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("items", arguments, {}).status());
  if (input.is_undefined()) {
    return MakeIterator({});
  }
  if (!input.is_dict()) {
    return TypeError("Can only get item pairs from a mapping.");
  }
  RETURN_IF_ERROR(interpreter.budget()->Spend(*input.Length()));
  List pairs;
  for (const auto& [key, value] : input.dict().entries()) {
    pairs.push_back(Value::MakeTuple({key, value}));
  }
  return MakeIterator(std::move(pairs));
}

absl::StatusOr<Value> Reverse(Interpreter& interpreter,
                              const Value& input,
                              const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("reverse", arguments, {}).status());
  ASSIGN_OR_RETURN(List elements, interpreter.Elements(input));
  std::reverse(elements.begin(), elements.end());
  if (!input.is_string()) {
    return MakeIterator(std::move(elements));
  }
  std::string text;
  for (const Value& character : elements) {
    text += character.bytes();
  }
  return interpreter.String(std::move(text));
}

absl::StatusOr<Value> Join(Interpreter& interpreter,
                           const Value& input,
                           const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("join", arguments, {"d", "attribute"}));
  const std::string separator = bound.Has(0) ? Str(bound[0]) : "";
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(input));
  std::string text;
  for (size_t i = 0; i < elements.size(); ++i) {
    Value element = elements[i];
    if (const std::optional<Value> path = bound.NotNone(1)) {
      ASSIGN_OR_RETURN(element, LookUpPath(interpreter, element, *path));
    }
    text += (i > 0 ? separator : "") + Str(element);
    RETURN_IF_ERROR(interpreter.budget()->CheckSize(static_cast<double>(text.size())));
  }
  return interpreter.String(std::move(text));
}

// The values of a comma-separated list of paths, or the element itself.
absl::StatusOr<Value> SortKeyOf(Interpreter& interpreter,
                                const Value& element,
                                const std::optional<Value>& path,
                                bool case_sensitive) {
  if (!path) {
    return SortKey(interpreter, element, case_sensitive);
  }
  if (!path->is_string()) {
    ASSIGN_OR_RETURN(const Value value, LookUpPath(interpreter, element, *path));
    return SortKey(interpreter, value, case_sensitive);
  }
  List keys;
  for (const std::string_view part : Split(path->bytes(), ",", -1)) {
    ASSIGN_OR_RETURN(const Value value,
                     LookUpPath(interpreter, element, interpreter.String(std::string(part))));
    keys.push_back(SortKey(interpreter, value, case_sensitive));
  }
  return keys.size() == 1 ? keys[0] : Value::MakeList(std::move(keys));
}

absl::StatusOr<Value> Sort(Interpreter& interpreter,
                           const Value& input,
                           const Arguments& arguments) {
  ASSIGN_OR_RETURN(
      const BoundArguments bound,
      BoundArguments::Bind("sort", arguments, {"reverse", "case_sensitive", "attribute"}));
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(input));
  List keys;
  for (const Value& element : elements) {
    ASSIGN_OR_RETURN(Value key,
                     SortKeyOf(interpreter, element, bound.NotNone(2), bound.Bool(1, false)));
    keys.push_back(std::move(key));
  }
  ASSIGN_OR_RETURN(List sorted, SortByKeys(elements, keys, bound.Bool(0, false)));
  return Value::MakeList(std::move(sorted));
}

absl::StatusOr<Value> DictSort(Interpreter& interpreter,
                               const Value& input,
                               const Arguments& arguments) {
  ASSIGN_OR_RETURN(
      const BoundArguments bound,
      BoundArguments::Bind("dictsort", arguments, {"case_sensitive", "by", "reverse"}));
  ASSIGN_OR_RETURN(const std::string_view by, bound.String(1, "key"));
  if (by != "key" && by != "value") {
    return TypeError("You can only sort by either \"key\" or \"value\"");
  }
  if (!input.is_dict()) {
    return TypeError(fmt::format("'{}' object has no items", input.type_name()));
  }
  List pairs;
  List keys;
  for (const auto& [key, value] : input.dict().entries()) {
    pairs.push_back(Value::MakeTuple({key, value}));
    keys.push_back(SortKey(interpreter, by == "key" ? key : value, bound.Bool(0, false)));
  }
  ASSIGN_OR_RETURN(List sorted, SortByKeys(pairs, keys, bound.Bool(2, false)));
  return Value::MakeList(std::move(sorted));
}

absl::StatusOr<Value> Unique(Interpreter& interpreter,
                             const Value& input,
                             const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("unique", arguments, {"case_sensitive", "attribute"}));
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(input));
  List unique;
  Dict seen;
  for (const Value& element : elements) {
    Value value = element;
    if (const std::optional<Value> path = bound.NotNone(1)) {
      ASSIGN_OR_RETURN(value, LookUpPath(interpreter, element, *path));
    }
    const Value key = SortKey(interpreter, value, bound.Bool(0, false));
    if (seen.Find(key) == nullptr) {
      RETURN_IF_ERROR(seen.Set(key, Value::None()));
      unique.push_back(element);
    }
  }
  return MakeIterator(std::move(unique));
}

template <bool kMax>
absl::StatusOr<Value> Extreme(Interpreter& interpreter,
                              const Value& input,
                              const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("min or max", arguments, {"case_sensitive", "attribute"}));
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(input));
  if (elements.empty()) {
    return Value::Undefined("No aggregated item, sequence was empty.");
  }
  const Value* best = nullptr;
  Value best_key;
  for (const Value& element : elements) {
    Value value = element;
    if (const std::optional<Value> path = bound.NotNone(1)) {
      ASSIGN_OR_RETURN(value, LookUpPath(interpreter, element, *path));
    }
    Value key = SortKey(interpreter, value, bound.Bool(0, false));
    int order = 0;
    if (best != nullptr) {
      ASSIGN_OR_RETURN(order, Compare(key, best_key));
    }
    if (best == nullptr || (kMax ? order > 0 : order < 0)) {
      best = &element;
      best_key = std::move(key);
    }
  }
  return *best;
}

absl::StatusOr<Value> Sum(Interpreter& interpreter,
                          const Value& input,
                          const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("sum", arguments, {"attribute", "start"}));
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(input));
  Value total = bound.Has(1) ? bound[1] : Value::Int(0);
  if (total.is_string()) {
    return TypeError("sum() can't sum strings");
  }
  for (const Value& element : elements) {
    Value value = element;
    if (const std::optional<Value> path = bound.NotNone(0)) {
      ASSIGN_OR_RETURN(value, LookUpPath(interpreter, element, *path));
    }
    ASSIGN_OR_RETURN(total, ApplyBinary(interpreter, "+", total, value));
  }
  return total;
}

absl::StatusOr<Value> GroupBy(Interpreter& interpreter,
                              const Value& input,
                              const Arguments& arguments) {
  ASSIGN_OR_RETURN(
      const BoundArguments bound,
      BoundArguments::Bind("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1));
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(input));
  const bool case_sensitive = bound.Bool(2, false);
  List keys;
  List pairs;  // of the value as it stands and the element
  for (const Value& element : elements) {
    ASSIGN_OR_RETURN(const Value value,
                     LookUpPath(interpreter, element, bound[0], bound.NotNone(1)));
    keys.push_back(SortKey(interpreter, value, case_sensitive));
    pairs.push_back(Value::MakeTuple({keys.back(), value, element}));
  }
  ASSIGN_OR_RETURN(const List sorted, SortByKeys(pairs, keys, false));
  List groups;
  for (size_t i = 0; i < sorted.size();) {
    const Value& key = sorted[i].elements()[0];
    const Value& shown = sorted[i].elements()[1];
    List members;
    for (; i < sorted.size() && Equal(sorted[i].elements()[0], key); ++i) {
      members.push_back(sorted[i].elements()[2]);
    }
    groups.push_back(
        Value::FromObject(std::make_shared<Group>(shown, Value::MakeList(std::move(members)))));
  }
  return Value::MakeList(std::move(groups));
}

absl::StatusOr<Value> Batch(Interpreter& interpreter,
                            const Value& input,
                            const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("batch", arguments, {"linecount", "fill_with"}, 1));
  ASSIGN_OR_RETURN(const int64_t size, bound.Int(0, 1));
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(input));
  if (size < 1 || size > 1'000'000) {
    return TypeError(fmt::format("batch(): linecount {} is not in [1, 1000000]", size));
  }
  List batches;
  List batch;
  for (const Value& element : elements) {
    if (static_cast<int64_t>(batch.size()) == size) {
      batches.push_back(Value::MakeList(std::exchange(batch, {})));
    }
    batch.push_back(element);
  }
  if (!batch.empty()) {
    if (const std::optional<Value> fill = bound.NotNone(1)) {
      RETURN_IF_ERROR(interpreter.budget()->Spend(size));
      batch.resize(static_cast<size_t>(size), *fill);
    }
    batches.push_back(Value::MakeList(std::move(batch)));
  }
  return MakeIterator(std::move(batches));
}

absl::StatusOr<Value> SliceInto(Interpreter& interpreter,
                                const Value& input,
                                const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("slice", arguments, {"slices", "fill_with"}, 1));
  ASSIGN_OR_RETURN(const int64_t count, bound.Int(0, 1));
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(input));
  if (count < 1 || count > 1'000'000) {
    return TypeError(fmt::format("slice(): slices {} is not in [1, 1000000]", count));
  }
  RETURN_IF_ERROR(interpreter.budget()->Spend(count));
  const auto slices = static_cast<size_t>(count);
  const size_t each = elements.size() / slices;
  const size_t longer = elements.size() % slices;
  List out;
  size_t at = 0;
  for (size_t i = 0; i < slices; ++i) {
    const size_t size = each + (i < longer ? 1 : 0);
    List slice(elements.begin() + static_cast<ptrdiff_t>(at),
               elements.begin() + static_cast<ptrdiff_t>(at + size));
    at += size;
    if (const std::optional<Value> fill = bound.NotNone(1); fill && i >= longer) {
      slice.push_back(*fill);
    }
    out.push_back(Value::MakeList(std::move(slice)));
  }
  return MakeIterator(std::move(out));
}

constexpr std::array kFilters = {
    NamedFilter{"batch", Batch},
    NamedFilter{"count", Length},
    NamedFilter{"dictsort", DictSort},
    NamedFilter{"first", First},
    NamedFilter{"groupby", GroupBy},
    NamedFilter{"items", Items},
    NamedFilter{"join", Join},
    NamedFilter{"last", Last},
    NamedFilter{"length", Length},
    NamedFilter{"list", ToList},
    NamedFilter{"max", Extreme<true>},
    NamedFilter{"min", Extreme<false>},
    NamedFilter{"reverse", Reverse},
    NamedFilter{"slice", SliceInto},
    NamedFilter{"sort", Sort},
    NamedFilter{"sum", Sum},
    NamedFilter{"unique", Unique},
};

}  // namespace

std::span<const NamedFilter> SequenceFilters() {
  return kFilters;
}

}  // namespace ringserve::jinja
