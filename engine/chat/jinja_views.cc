// What is iterated over without being a list: a dict's items, keys and values, and ranges.
#include <algorithm>
#include <cstdlib>

#include <fmt/format.h>

#include "engine/chat/jinja_value.h"

namespace ringserve::jinja {

std::string DictView::Print() const {
  return fmt::format("{}({})", name_, Repr(Value::MakeList(elements_)));
}

bool DictView::IsEqual(const DictView& other) const {
  if (elements_.size() != other.elements_.size() || name_ == "dict_values" ||
      other.name_ == "dict_values") {
    return false;
  }
  if (elements_.empty() || name_ != other.name_) {
    return elements_.empty();
  }
  // Those of a dict: its keys are distinct and can be found.
  const bool has_values = name_ == "dict_items";
  Dict found;
  for (const Value& element : other.elements_) {
    const Value& key = has_values ? element.elements().front() : element;
    if (!found.Set(key, has_values ? element.elements().back() : element).ok()) {
      return false;
    }
  }
  return std::all_of(elements_.begin(), elements_.end(), [&](const Value& element) {
    const Value* const value = found.Find(has_values ? element.elements().front() : element);
    return value != nullptr && (!has_values || Equal(element.elements().back(), *value));
  });
}

bool Range::IsEqual(const Range& other) const {
  const int64_t length = *Length();
  return length == *other.Length() &&
         (length == 0 || (start_ == other.start_ && (length == 1 || step_ == other.step_)));
}

std::string Range::Print() const {
  return step_ == 1 ? fmt::format("range({}, {})", start_, stop_)
                    : fmt::format("range({}, {}, {})", start_, stop_, step_);
}

std::optional<int64_t> Range::Length() const {
  const int64_t span = step_ > 0 ? stop_ - start_ : start_ - stop_;
  const int64_t stride = std::abs(step_);
  return span <= 0 ? 0 : (span + stride - 1) / stride;
}

std::optional<List> Range::Elements() {
  List elements;
  for (int64_t i = 0; i < *Length(); ++i) {
    elements.push_back(Value::Int(start_ + i * step_));
  }
  return elements;
}

std::optional<Value> Range::Item(int64_t index) const {
  const int64_t length = *Length();
  const int64_t at = index < 0 ? index + length : index;
  if (at < 0 || at >= length) {
    return std::nullopt;
  }
  return Value::Int(start_ + at * step_);
}

}  // namespace ringserve::jinja
