// What of a row's sampling the device can do.
#pragma once

#include "engine/sample/sampler.h"
#include "kernels/sample_cuda.h"

namespace ringserve {

// True if a row needs nothing but its logits and numbers: no bans, biases, penalties or
// alternatives.
bool SamplesOnDevice(const SampleRow& row);

// The row as the kernels read it, without a feedback slot. Requires SamplesOnDevice.
cuda::SampleCudaRow DeviceRow(const SampleRow& row);

}  // namespace ringserve
