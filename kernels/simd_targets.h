// Which of Highway's instruction sets the kernels are compiled for. Included before any header of
// Highway by every file that foreach_target includes again and again.
//
// Left out are vectors whose size only the running machine knows, because arrays of them, which
// register blocks are, cannot be formed; and sets that differ from a lesser one in nothing that the
// kernels use (the dot products of bf16 have files of their own): for AVX3_SPR alone gcc 14 takes
// 36 s over the attention kernel. Newer versions of Highway know three kinds of NEON; the kernels
// are compiled for the first, which every AArch64 CPU has.
#pragma once

#define HWY_DISABLED_TARGETS                                                                   \
  (HWY_SSSE3 | HWY_AVX3_DL | HWY_AVX3_ZEN4 | HWY_AVX3_SPR | HWY_AVX10_2 | HWY_SVE | HWY_SVE2 | \
   HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV | RINGSERVE_NEON_TARGETS)

#include <hwy/detect_targets.h>

// Not every version knows them all.
#ifndef HWY_AVX3_ZEN4
#define HWY_AVX3_ZEN4 0
#endif
#ifndef HWY_AVX3_SPR
#define HWY_AVX3_SPR 0
#endif
#ifndef HWY_AVX10_2
#define HWY_AVX10_2 0
#endif
#ifndef HWY_NEON_BF16
#define HWY_NEON_BF16 0
#endif
#ifdef HWY_NEON_WITHOUT_AES
#define RINGSERVE_NEON_TARGETS (HWY_NEON | HWY_NEON_BF16)
#else
#define RINGSERVE_NEON_TARGETS 0
#endif
