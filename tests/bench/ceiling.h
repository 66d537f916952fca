// What the machine can do at best, as the yardstick of benchmarks: each function does nothing but
// the work it is named for, with no result that could be of use.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/types.h"

namespace ringserve {

class ThreadPool;

// Reads every byte, in as many streams at once for each thread; 64-byte aligned, of a size that is
// a multiple of 1 MiB.
void ReadAll(const std::byte* data, int64_t num_bytes, int32_t num_streams, ThreadPool& pool);

// Multiplies and adds in registers on every thread; the number of floating-point operations. bf16
// uses the dot product where the CPU has it, else float32.
double MultiplyInRegisters(DType dtype, ThreadPool& pool);

}  // namespace ringserve
