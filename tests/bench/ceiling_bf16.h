// The bf16 part of MultiplyInRegisters. Internal to ceiling.
#pragma once

#include <cstdint>
#include <hwy/base.h>

namespace ringserve {

// Returns a number that depends on every operation; requires HasBf16Dot().
float MultiplyBf16Dot(int64_t num_steps);

// Of one step: 24 instructions, vdpbf16ps (16 dot products of 2) or BFMMLA (2 x 2 of 4).
inline constexpr int64_t kBf16DotStepFlops =
    HWY_ARCH_ARM_A64 ? 24 * 2 * 2 * 4 * 2 : 24 * 16 * 2 * 2;

}  // namespace ringserve
