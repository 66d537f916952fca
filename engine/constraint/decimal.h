// Decimal numbers, exactly as JSON writes them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ringserve {

struct Decimal {
  bool negative = false;  // never of 0
  std::string whole;      // digits before the point, without leading zeros
  std::string fraction;   // after it, without trailing zeros

  bool is_zero() const { return whole.empty() && fraction.empty(); }

  bool operator==(const Decimal&) const = default;
};

// Of a JSON number. None if it has more than 400 digits before or after the point.
std::optional<Decimal> ParseDecimal(std::string_view json_number);

// Negative, 0 or positive.
int Compare(const Decimal& a, const Decimal& b);

// mantissa / 10^scale; mantissa > 0.
struct Divisor {
  int64_t mantissa = 1;
  int32_t scale = 0;
};

// None if it is not above 0 or has too many digits.
std::optional<Divisor> ToDivisor(const Decimal& value);
// Of what is a multiple of both, the smallest; none if it is too large.
std::optional<Divisor> LeastCommonMultiple(const Divisor& a, const Divisor& b);
bool IsMultiple(const Decimal& value, const Divisor& divisor);

}  // namespace ringserve
