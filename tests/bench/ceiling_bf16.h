// The bf16 part of MultiplyInRegisters. Internal to ceiling.
#pragma once

#include <cstdint>

namespace ringserve {

// Returns a number that depends on every operation; requires HasBf16Dot().
float MultiplyBf16Dot(int64_t num_steps);

// Of one step.
inline constexpr int64_t kBf16DotStepFlops = int64_t{24} * 16 * 2 * 2;

}  // namespace ringserve
