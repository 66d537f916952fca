// Collects what is wrong with an input, so that a person learns of everything at once and a program
// of the first.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/status.h"

namespace ringserve {

class Problems {
 public:
  void Add(std::string message) { list_.push_back(std::move(message)); }

  void Add(const absl::Status& status) {
    if (!status.ok()) {
      Add(std::string(status.message()));
    }
  }

  void Add(std::string_view prefix, const Problems& others) {
    for (const std::string& message : others.list_) {
      Add(std::string(prefix) + message);
    }
  }

  // Stores the value, or notes why there is none and leaves `to` as it is. True if stored.
  template <typename T, typename U>
  bool Take(absl::StatusOr<T> value, U& to) {
    if (!value.ok()) {
      Add(value.status());
      return false;
    }
    to = *std::move(value);
    return true;
  }

  const std::vector<std::string>& list() const { return list_; }

  bool empty() const { return list_.empty(); }

  // OK, or INVALID_ARGUMENT with the first problem.
  absl::Status ToStatus() const {
    return list_.empty() ? absl::OkStatus() : absl::InvalidArgumentError(list_.front());
  }

 private:
  std::vector<std::string> list_;
};

}  // namespace ringserve
