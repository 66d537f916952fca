// What this CPU offers to the kernels.
#pragma once

#include <cstdint>
#include <string>

namespace ringserve {

// Whether MatMulKernelBf16Dot can run: AVX-512 BF16 (the operating system saves its registers), or
// Arm's BF16.
bool HasBf16Dot();

// Whether kernels for Intel's AMX can run: the CPU has it beside AVX-512 BF16, and the operating
// system keeps its tiles, which the first call asks for.
bool HasAmxBf16();

// Whether attention of few rows fetches into the first level of caches, which a CPU with enough
// miss buffers there does faster than through the second: AMD's from family 1Ah (Zen 5) on.
bool FetchesIntoFirstLevel();

// Whether products of few rows ask for the lines of weights that come, which they read one after
// the other: Intel's prefetchers alone leave memory idle. AMD's do not, unless they are interfered
// with.
bool FetchesLinesAhead();

// Names what was picked, for logs and benchmarks: "AVX3", "AVX3 + AVX512_BF16 + AMX", "NEON",
// "NEON + BF16", ...
std::string CpuKernelNames();

// CPUs that this process may keep busy: its affinity mask and, rounded up, its cgroup's CPU quota.
// At least 1.
int32_t UsableCpus();

}  // namespace ringserve
