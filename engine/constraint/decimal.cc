#include "engine/constraint/decimal.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace ringserve {
namespace {

constexpr int64_t kMaxDigits = 400;
constexpr int64_t kMaxMantissa = 1'000'000'000'000;

int CompareMagnitudes(const Decimal& a, const Decimal& b) {
  if (a.whole.size() != b.whole.size()) {
    return a.whole.size() < b.whole.size() ? -1 : 1;
  }
  const int whole = a.whole.compare(b.whole);
  return whole != 0 ? whole : a.fraction.compare(b.fraction);
}

int64_t PowerOfTen(int32_t exponent) {
  int64_t power = 1;
  for (int32_t i = 0; i < exponent; ++i) {
    power *= 10;
  }
  return power;
}

}  // namespace

std::optional<Decimal> ParseDecimal(std::string_view json_number) {
  Decimal out;
  size_t at = 0;
  if (at < json_number.size() && json_number[at] == '-') {
    out.negative = true;
    ++at;
  }
  const size_t exponent_at = std::min(json_number.find_first_of("eE"), json_number.size());
  int64_t exponent = 0;
  if (exponent_at < json_number.size()) {
    const std::string digits(json_number.substr(exponent_at + 1));
    if (digits.size() > 6) {
      return std::nullopt;
    }
    exponent = std::strtoll(digits.c_str(), nullptr, 10);
  }
  const std::string_view mantissa = json_number.substr(at, exponent_at - at);
  const size_t point = std::min(mantissa.find('.'), mantissa.size());
  std::string digits(mantissa.substr(0, point));
  const auto num_whole = static_cast<int64_t>(point) + exponent;
  if (point < mantissa.size()) {
    digits += mantissa.substr(point + 1);
  }
  const auto num_digits = static_cast<int64_t>(digits.size());
  if (num_whole > kMaxDigits || num_digits - num_whole > kMaxDigits) {
    return std::nullopt;
  }
  if (num_whole < 0) {
    digits.insert(0, static_cast<size_t>(-num_whole), '0');
  } else if (num_whole > num_digits) {
    digits.append(static_cast<size_t>(num_whole - num_digits), '0');
  }
  const auto split = static_cast<size_t>(std::max<int64_t>(num_whole, 0));
  out.whole = digits.substr(0, split);
  out.fraction = digits.substr(split);
  out.whole.erase(0, std::min(out.whole.find_first_not_of('0'), out.whole.size()));
  const size_t last = out.fraction.find_last_not_of('0');
  out.fraction.erase(last == std::string::npos ? 0 : last + 1);
  out.negative = out.negative && !out.is_zero();
  return out;
}

int Compare(const Decimal& a, const Decimal& b) {
  if (a.negative != b.negative) {
    return a.negative ? -1 : 1;
  }
  return a.negative ? CompareMagnitudes(b, a) : CompareMagnitudes(a, b);
}

std::optional<Divisor> ToDivisor(const Decimal& value) {
  const std::string digits = value.whole + value.fraction;
  if (value.negative || value.is_zero() || digits.size() > 12 || value.fraction.size() > 12) {
    return std::nullopt;
  }
  return Divisor{std::strtoll(digits.c_str(), nullptr, 10),
                 static_cast<int32_t>(value.fraction.size())};
}

std::optional<Divisor> LeastCommonMultiple(const Divisor& a, const Divisor& b) {
  const int32_t scale = std::max(a.scale, b.scale);
  const int64_t left = a.mantissa;
  const int64_t right = b.mantissa;
  const int64_t left_power = PowerOfTen(scale - a.scale);
  const int64_t right_power = PowerOfTen(scale - b.scale);
  if (left > kMaxMantissa / left_power || right > kMaxMantissa / right_power) {
    return std::nullopt;
  }
  const int64_t x = left * left_power;
  const int64_t y = right * right_power;
  const int64_t rest = y / std::gcd(x, y);
  if (x > kMaxMantissa / std::max<int64_t>(rest, 1)) {  // never 0, which analysis cannot know
    return std::nullopt;
  }
  return Divisor{x * rest, scale};
}

bool IsMultiple(const Decimal& value, const Divisor& divisor) {
  if (static_cast<int64_t>(value.fraction.size()) > divisor.scale) {
    return false;
  }
  std::string digits = value.whole + value.fraction;
  digits.append(static_cast<size_t>(divisor.scale) - value.fraction.size(), '0');
  int64_t rest = 0;
  for (const char digit : digits) {
    rest = (rest * 10 + (digit - '0')) % divisor.mantissa;
  }
  return rest == 0;
}

}  // namespace ringserve
