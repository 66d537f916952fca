// The sums that sampling needs of a row of logits, in one fixed order of addition.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

namespace ringserve {

struct LogitScan {
  float max = 0;         // -infinity if there is no other
  bool is_sound = true;  // no NaN, no +infinity
};

LogitScan ScanLogits(std::span<const float> logits);

// Sum of exp((x - max) / temperature); relative error below 1e-6. Requires a finite max >= every x
// and temperature > 0.
double SumExp(std::span<const float> logits, float max, float temperature);

// One term of that sum, exactly.
inline double ExpWeight(float logit, float max, float temperature) {
  return std::exp(static_cast<double>((logit - max) / temperature));
}

}  // namespace ringserve
