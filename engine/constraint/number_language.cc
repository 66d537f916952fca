#include "engine/constraint/number_language.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace ringserve {
namespace {

constexpr int32_t kMaxWholeDigits = 40;
constexpr int32_t kMaxFractionDigits = 20;
constexpr int32_t kExactDigits = 15;
constexpr int64_t kMaxDivisor = 10'000;

enum class Phase : uint8_t {
  kStart,
  kMinus,
  kZero,
  kWhole,
  kPoint,
  kFraction,
  kE,
  kSign,
  kExponent
};

// A number that was read so far. `low` and `high` compare its digits with those of the bounds'
// magnitudes: -1, 0 or 1.
struct Reading {
  Phase phase = Phase::kStart;
  bool negative = false;
  bool nonzero = false;
  int8_t low = 0, high = 0;
  int16_t num_whole = 0, num_fraction = 0;  // of kExponent: digits of the exponent
  int64_t rest = 0;                         // modulo the divisor's mantissa

  bool operator==(const Reading&) const = default;

  template <typename H>
  friend H AbslHashValue(H h, const Reading& r) {
    return H::combine(std::move(h),
                      r.phase,
                      r.negative,
                      r.nonzero,
                      r.low,
                      r.high,
                      r.num_whole,
                      r.num_fraction,
                      r.rest);
  }
};

int8_t CompareDigit(
    int8_t so_far, const std::string& digits, int16_t index, char digit, bool whole) {
  const auto at = static_cast<size_t>(index);
  if (at >= digits.size()) {
    // More digits before the point are a larger number; after it only if they are not 0.
    const bool is_larger = whole || (so_far == 0 && digit != '0');
    return is_larger ? int8_t{1} : so_far;
  }
  if (so_far != 0 || digit == digits[at]) {
    return so_far;
  }
  return digit < digits[at] ? int8_t{-1} : int8_t{1};
}

class Language {
 public:
  explicit Language(const NumberSpec& spec) : spec_(spec) {
    bounded_ = spec.min || spec.max || spec.divisor;
    if (!bounded_) {
      max_whole_ = kMaxWholeDigits;
      max_digits_ = kMaxWholeDigits + kMaxFractionDigits;
      return;
    }
    int32_t digits = kExactDigits - 1;
    int32_t whole = kExactDigits;
    for (const auto& bound : {spec.min, spec.max}) {
      if (bound) {
        const auto num_whole = static_cast<int32_t>(bound->value.whole.size());
        digits = std::max(digits, num_whole + static_cast<int32_t>(bound->value.fraction.size()));
        whole = std::max(whole, num_whole + 1);
      }
    }
    max_digits_ = digits + 1;
    max_whole_ = spec.is_integer && !spec.divisor && !(spec.min && spec.max)
                     ? std::max(whole, kMaxWholeDigits)
                     : whole;
  }

  std::optional<Reading> Next(const Reading& from, uint8_t byte) const {
    if (byte >= '0' && byte <= '9') {
      return Digit(from, static_cast<char>(byte));
    }
    Reading to = from;
    switch (byte) {
      case '-':
        if (from.phase == Phase::kE) {
          to.phase = Phase::kSign;
          return to;
        }
        if (from.phase != Phase::kStart) {
          return std::nullopt;
        }
        to.negative = bounded_;
        to.phase = Phase::kMinus;
        return to;
      case '+':
        to.phase = Phase::kSign;
        return from.phase == Phase::kE ? std::optional(to) : std::nullopt;
      case '.':
        if (spec_.is_integer || (from.phase != Phase::kZero && from.phase != Phase::kWhole)) {
          return std::nullopt;
        }
        EndWhole(&to);
        to.phase = Phase::kPoint;
        to.num_whole = bounded_ ? to.num_whole : int16_t{0};
        return to;
      case 'e':
      case 'E':
        if (spec_.is_integer || bounded_ || !spec_.has_exponent || !AfterDigits(from.phase)) {
          return std::nullopt;
        }
        return Reading{.phase = Phase::kE};
      default:
        return std::nullopt;
    }
  }

  bool Accepts(const Reading& reading) const {
    if (!AfterDigits(reading.phase) && reading.phase != Phase::kExponent) {
      return false;
    }
    Reading end = reading;
    if (reading.phase == Phase::kZero || reading.phase == Phase::kWhole) {
      EndWhole(&end);
    }
    if (spec_.min) {
      const int order = Order(end, *spec_.min, end.low);
      if (order < 0 || (order == 0 && spec_.min->exclusive)) {
        return false;
      }
    }
    if (spec_.max) {
      const int order = Order(end, *spec_.max, end.high);
      if (order > 0 || (order == 0 && spec_.max->exclusive)) {
        return false;
      }
    }
    if (!spec_.divisor) {
      return true;
    }
    int64_t rest = end.rest;
    for (int32_t i = end.num_fraction; i < spec_.divisor->scale; ++i) {
      rest = rest * 10 % spec_.divisor->mantissa;
    }
    return rest == 0;
  }

 private:
  static bool AfterDigits(Phase phase) {
    return phase == Phase::kZero || phase == Phase::kWhole || phase == Phase::kFraction;
  }

  std::optional<Reading> Digit(const Reading& from, char digit) const {
    Reading to = from;
    switch (from.phase) {
      case Phase::kStart:
      case Phase::kMinus:
        if (digit == '0') {
          to.phase = Phase::kZero;
          return to;
        }
        to.phase = Phase::kWhole;
        return WholeDigit(to, digit);
      case Phase::kWhole:
        return WholeDigit(to, digit);
      case Phase::kPoint:
      case Phase::kFraction:
        to.phase = Phase::kFraction;
        return FractionDigit(to, digit);
      case Phase::kE:
      case Phase::kSign:
      case Phase::kExponent:
        to.phase = Phase::kExponent;
        ++to.num_fraction;
        return to.num_fraction <= 2 ? std::optional(to) : std::nullopt;
      case Phase::kZero:
        return std::nullopt;
    }
    return std::nullopt;
  }

  std::optional<Reading> WholeDigit(Reading to, char digit) const {
    if (to.num_whole >= max_whole_) {
      return std::nullopt;
    }
    to.nonzero = bounded_;
    Compare(&to, to.num_whole, digit, /*whole=*/true);
    ++to.num_whole;
    Divide(&to, digit);
    return to;
  }

  std::optional<Reading> FractionDigit(Reading to, char digit) const {
    if (to.num_whole + to.num_fraction >= max_digits_ ||
        (!bounded_ && to.num_fraction >= kMaxFractionDigits)) {
      return std::nullopt;
    }
    to.nonzero = to.nonzero || (bounded_ && digit != '0');
    Compare(&to, to.num_fraction, digit, /*whole=*/false);
    if (spec_.divisor) {
      if (to.num_fraction >= spec_.divisor->scale) {
        if (digit != '0') {
          return std::nullopt;
        }
      } else {
        Divide(&to, digit);
      }
    }
    ++to.num_fraction;
    return to;
  }

  void Compare(Reading* to, int16_t index, char digit, bool whole) const {
    const auto compare = [&](const std::optional<NumberBound>& bound, int8_t* order) {
      if (bound) {
        const Decimal& value = bound->value;
        *order = CompareDigit(*order, whole ? value.whole : value.fraction, index, digit, whole);
      }
    };
    compare(spec_.min, &to->low);
    compare(spec_.max, &to->high);
  }

  void Divide(Reading* to, char digit) const {
    if (spec_.divisor) {
      to->rest = (to->rest * 10 + (digit - '0')) % spec_.divisor->mantissa;
    }
  }

  // Fewer digits are a smaller number.
  void EndWhole(Reading* reading) const {
    const auto end = [&](const std::optional<NumberBound>& bound, int8_t* order) {
      if (bound && reading->num_whole < static_cast<int16_t>(bound->value.whole.size())) {
        *order = -1;
      }
    };
    end(spec_.min, &reading->low);
    end(spec_.max, &reading->high);
  }

  // Of the number and the bound.
  static int Order(const Reading& end, const NumberBound& bound, int digits) {
    const bool negative = end.negative && end.nonzero;
    if (negative != bound.value.negative) {
      return negative ? -1 : 1;
    }
    int order = digits;
    if (order == 0 && end.num_fraction < static_cast<int16_t>(bound.value.fraction.size())) {
      order = -1;
    }
    return negative ? -order : order;
  }

  const NumberSpec& spec_;
  bool bounded_ = false;
  int32_t max_whole_ = 0;
  int32_t max_digits_ = 0;
};

}  // namespace

absl::StatusOr<Dfa> NumberDfa(const NumberSpec& spec, Budget* budget) {
  if (spec.divisor && spec.divisor->mantissa > kMaxDivisor) {
    return absl::InvalidArgumentError("this divisor is not supported: it has too many digits");
  }
  const Language language(spec);
  std::vector<ByteRange> kinds;
  for (const char byte : std::string("+-.Ee0123456789")) {
    kinds.push_back({static_cast<uint8_t>(byte), static_cast<uint8_t>(byte)});
  }
  return ExploreDfa(
      Reading{},
      kinds,
      [&](const Reading& from, uint8_t byte) { return language.Next(from, byte); },
      [&](const Reading& reading) { return language.Accepts(reading); },
      budget);
}

}  // namespace ringserve
