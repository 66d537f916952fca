#include "kernels/cpu_features.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sched.h>
#include <string>

#include "kernels/simd_targets.h"
// Behind it.
#include <hwy/highway.h>

#if HWY_ARCH_ARM_A64
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif HWY_ARCH_X86_64
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ringserve {
namespace {

// The CPU quota of this process's cgroup (version 2) as a number of CPUs, or `none`. In a container
// the file of its own cgroup is the root's; elsewhere every level up to the root may hold a quota.
double CgroupCpus(double none) {
  std::ifstream self("/proc/self/cgroup");
  std::string path;
  for (std::string line; std::getline(self, line);) {
    if (line.starts_with("0::")) {
      path = line.substr(3);
    }
  }
  double cpus = none;
  for (;;) {
    std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
    double quota = 0;  // stays 0 for "max"
    double period = 0;
    if (file >> quota >> period && quota > 0 && period > 0) {
      cpus = std::min(cpus, quota / period);
    }
    const size_t parent = path.rfind('/');
    if (path.empty() || parent == std::string::npos) {
      return cpus;
    }
    path.resize(parent);
  }
}

#if HWY_ARCH_X86_64
// Linux saves tiles for those alone that ask for it: once, for all threads of the process.
bool AskForAmx() {
  constexpr uint32_t kBf16 = 1U << 22;  // of CPUID leaf 7, edx
  constexpr uint32_t kTiles = 1U << 24;
  constexpr int64_t kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int64_t kTileData = 18;
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kBf16) != 0 &&
         (edx & kTiles) != 0 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

struct Cpuid {
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;

  // All zeros if the CPU has no such leaf.
  explicit Cpuid(uint32_t leaf) { static_cast<void>(__get_cpuid(leaf, &eax, &ebx, &ecx, &edx)); }
};

bool IsIntel() {
  const Cpuid vendor(0);
  return vendor.ebx == signature_INTEL_ebx && vendor.ecx == signature_INTEL_ecx &&
         vendor.edx == signature_INTEL_edx;
}

// AMD's family, as its manuals write it; 0 of others.
uint32_t AmdFamily() {
  const Cpuid vendor(0);
  if (vendor.ebx != signature_AMD_ebx || vendor.ecx != signature_AMD_ecx ||
      vendor.edx != signature_AMD_edx) {
    return 0;
  }
  const Cpuid version(1);
  return (version.eax >> 8 & 0xfU) + (version.eax >> 20 & 0xffU);
}
#endif

}  // namespace

bool FetchesIntoFirstLevel() {
#if HWY_ARCH_X86_64
  static const bool does = AmdFamily() >= 0x1a;
  return does;
#else
  return false;
#endif
}

bool FetchesLinesAhead() {
#if HWY_ARCH_X86_64
  static const bool does = IsIntel();
  return does;
#else
  return false;
#endif
}

bool HasAmxBf16() {
#if HWY_ARCH_X86_64
  static const bool has_it = HasBf16Dot() && AskForAmx();
  return has_it;
#else
  return false;
#endif
}

bool HasBf16Dot() {
#if HWY_ARCH_X86_64
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif HWY_ARCH_ARM_A64
  return (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0;
#else
  return false;
#endif
}

std::string CpuKernelNames() {
#if HWY_ARCH_ARM_A64
  return HasBf16Dot() ? "NEON + BF16" : "NEON";  // all that kernels are compiled for
#else
  const int64_t supported = hwy::SupportedTargets() & ~int64_t{HWY_DISABLED_TARGETS};
  const std::string name = hwy::TargetName(supported & -supported);  // the lowest bit is the best
  return name + (HasBf16Dot() ? " + AVX512_BF16" : "") + (HasAmxBf16() ? " + AMX" : "");
#endif
}

int32_t UsableCpus() {
  cpu_set_t set;
  const int32_t allowed = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  return std::max(1, static_cast<int32_t>(std::ceil(CgroupCpus(allowed))));
}

}  // namespace ringserve
