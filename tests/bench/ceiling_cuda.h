// What the GPU can do at best, as the yardstick of benchmarks; each function runs for a moment and
// takes the median. 0 if CUDA fails or this build has none.
#pragma once

#include <cstdint>

namespace ringserve {

// Bytes per second of a kernel that reads device memory well past every cache.
double MeasureDeviceRead();

// Floating-point operations per second of a product of 8192 x 8192 bf16 matrices of random numbers,
// by the backend's own kernels.
double MeasureDeviceProduct();

// Seconds between the begin of the first and the end of the last of `count` empty kernels, enqueued
// one after the other, per kernel.
double MeasureLaunch(int32_t count);

// Bytes per second of copies of 64 MiB between device and pinned memory: one way, the other, and
// both at once, summed.
struct CopyCeilings {
  double to_host = 0;
  double to_device = 0;
  double both = 0;
};

CopyCeilings MeasurePinnedCopies();

}  // namespace ringserve
