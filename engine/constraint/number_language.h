// The texts of JSON numbers with bounds and divisors, as automata that compare digit by digit. A
// number is written without an exponent where it has bounds or a divisor, and with so few digits
// (15, or as many as the bounds have and one more) that readers who take it for a double see the
// same order. One without has at most 40 digits before the point, 20 after it, and an exponent of
// at most two.
#pragma once

#include <optional>

#include "engine/base/status.h"
#include "engine/constraint/budget.h"
#include "engine/constraint/decimal.h"
#include "engine/constraint/dfa.h"

namespace ringserve {

struct NumberBound {
  Decimal value;
  bool exclusive = false;
};

struct NumberSpec {
  bool is_integer = false;   // written without a point
  bool has_exponent = true;  // where it has neither bounds nor divisor
  std::optional<NumberBound> min, max;
  std::optional<Divisor> divisor;
};

absl::StatusOr<Dfa> NumberDfa(const NumberSpec& spec, Budget* budget);

}  // namespace ringserve
