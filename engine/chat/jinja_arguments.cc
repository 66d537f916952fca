#include "engine/chat/jinja_arguments.h"

#include <algorithm>

#include <fmt/format.h>

namespace ringserve::jinja {

absl::Status TypeError(std::string_view why) {
  return absl::InvalidArgumentError(std::string(why));
}

absl::StatusOr<BoundArguments> BoundArguments::Bind(
    std::string_view function,
    const Arguments& arguments,
    std::initializer_list<std::string_view> parameters,
    size_t required) {
  BoundArguments bound;
  bound.function_ = function;
  bound.parameters_ = parameters;
  bound.values_.resize(parameters.size());
  if (arguments.positional.size() > parameters.size()) {
    return TypeError(fmt::format("{}() takes at most {} arguments, {} given",
                                 function,
                                 parameters.size(),
                                 arguments.positional.size()));
  }
  std::copy(arguments.positional.begin(), arguments.positional.end(), bound.values_.begin());
  for (const auto& [name, value] : arguments.named) {
    const auto* const found = std::find(parameters.begin(), parameters.end(), name);
    if (found == parameters.end()) {
      return TypeError(fmt::format("{}() has no parameter '{}'", function, name));
    }
    std::optional<Value>& slot = bound.values_[static_cast<size_t>(found - parameters.begin())];
    if (slot) {
      return TypeError(fmt::format("{}() got '{}' twice", function, name));
    }
    slot = value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!bound.values_[i]) {
      return TypeError(fmt::format("{}() is missing '{}'", function, bound.parameters_[i]));
    }
  }
  return bound;
}

absl::Status BoundArguments::WrongType(size_t index, std::string_view wanted) const {
  return TypeError(fmt::format("{}(): '{}' must be {}, not {}",
                               function_,
                               parameters_[index],
                               wanted,
                               values_[index]->type_name()));
}

absl::StatusOr<int64_t> BoundArguments::Int(size_t index, int64_t otherwise) const {
  if (!Has(index)) {
    return otherwise;
  }
  if (!values_[index]->is_integral()) {
    return WrongType(index, "an int");
  }
  return values_[index]->AsInt();
}

absl::StatusOr<std::string_view> BoundArguments::String(size_t index,
                                                        std::string_view otherwise) const {
  if (!Has(index)) {
    return otherwise;
  }
  if (!values_[index]->is_string()) {
    return WrongType(index, "a str");
  }
  return std::string_view(values_[index]->bytes());
}

bool BoundArguments::Bool(size_t index, bool otherwise) const {
  return Has(index) ? values_[index]->IsTrue() : otherwise;
}

std::optional<Value> BoundArguments::NotNone(size_t index) const {
  return Has(index) && !values_[index]->is_none() ? values_[index] : std::nullopt;
}

}  // namespace ringserve::jinja
