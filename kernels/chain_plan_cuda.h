// How a chain's products are cut into tiles and slabs: pure arithmetic on shapes. The choice
// decides the speed, never the bits.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/chain_params_cuda.h"

namespace ringserve::cuda::chain {

// Fills in what is not the chain's memory or a tensor map.
Launch PlanChain(std::span<const ChainOp> ops, int32_t num_sms, const ChainTuning& tuning);

}  // namespace ringserve::cuda::chain
