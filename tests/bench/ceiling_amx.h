// The part of MultiplyInRegisters for Intel's AMX. Internal to ceiling.
#pragma once

#include <cstdint>

namespace ringserve {

// Returns a number that depends on every operation; requires HasAmxBf16().
float MultiplyAmx(int64_t num_steps);

// Of one step: four products of [16, 32] x [32, 16].
inline constexpr int64_t kAmxStepFlops = int64_t{4} * 16 * 16 * 32 * 2;

}  // namespace ringserve
