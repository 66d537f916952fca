// Status plumbing. Errors of host code are absl::Status; these two macros pass them up. Debian's
// and Ubuntu's absl has no status macros, so these are ours.
#pragma once

#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

// Returns the status of `expr` from the enclosing function unless it is OK.
#define RETURN_IF_ERROR(expr)                                 \
  do {                                                        \
    if (absl::Status rs_status_ = (expr); !rs_status_.ok()) { \
      return rs_status_;                                      \
    }                                                         \
  } while (false)

// ASSIGN_OR_RETURN(auto x, F()): F returns absl::StatusOr<T>; x is declared or assigned on success.
#define ASSIGN_OR_RETURN(lhs, expr) \
  RS_ASSIGN_OR_RETURN_(RS_CONCAT_(rs_statusor_, __LINE__), lhs, expr)
// NOLINTBEGIN(bugprone-macro-parentheses): lhs may be a declaration and tmp is a name.
#define RS_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                         \
  if (!tmp.ok()) {                           \
    return std::move(tmp).status();          \
  }                                          \
  lhs = *std::move(tmp)
// NOLINTEND(bugprone-macro-parentheses)
#define RS_CONCAT_(a, b) RS_CONCAT_INNER_(a, b)
#define RS_CONCAT_INNER_(a, b) a##b
