// Arguments of a call bound to the parameters of a function, as Python binds them.
#pragma once

#include <initializer_list>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/chat/jinja_value.h"

namespace ringserve::jinja {

class BoundArguments {
 public:
  // A TypeError in words if there are too many, an unknown or doubly given name, or one of the
  // first `required` is missing.
  static absl::StatusOr<BoundArguments> Bind(std::string_view function,
                                             const Arguments& arguments,
                                             std::initializer_list<std::string_view> parameters,
                                             size_t required = 0);

  bool Has(size_t index) const { return values_[index].has_value(); }

  // Requires Has(index).
  const Value& operator[](size_t index) const { return *values_[index]; }

  // The argument, or what stands for it where it is not given. TypeErrors in words.
  absl::StatusOr<int64_t> Int(size_t index, int64_t otherwise) const;
  absl::StatusOr<std::string_view> String(size_t index, std::string_view otherwise) const;
  bool Bool(size_t index, bool otherwise) const;  // its truth
  // None counts as not given.
  std::optional<Value> NotNone(size_t index) const;

 private:
  absl::Status WrongType(size_t index, std::string_view wanted) const;

  std::string_view function_;
  std::vector<std::string_view> parameters_;
  std::vector<std::optional<Value>> values_;
};

absl::Status TypeError(std::string_view why);

}  // namespace ringserve::jinja
