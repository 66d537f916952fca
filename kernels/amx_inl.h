// Tiles of Intel's AMX: eight registers of up to 16 rows of 64 bytes. Included by the files of AMX
// kernels, on x86-64 only. As inline assembly, because GCC's intrinsics do not tell the compiler
// that memory is read, and take numbers of registers that are written out alone.
//
// tdpbf16ps adds a product of bf16, at most [16, 32] x [32, 16], to a tile of floats: for each of
// them the sums over even and over odd k, from zero in ascending order, are added up and then to
// the float. Subnormal numbers are taken as zero (Intel, Software Developer's Manual, TDPBF16PS).
// So the bits of a float depend on its own row and column alone.
#pragma once

#include <cstdint>
#include <hwy/base.h>
#include <utility>

namespace ringserve {

inline constexpr int64_t kAmxTileRows = 16;
inline constexpr int64_t kAmxTileBytes = 64;  // of a row
inline constexpr int64_t kAmxStep = 32;       // bf16 of a row: the k of one product

// What ldtilecfg reads.
struct alignas(64) AmxConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void Set(int tile, int64_t num_rows, int64_t num_row_bytes) {
    row_bytes[tile] = static_cast<uint16_t>(num_row_bytes);
    rows[tile] = static_cast<uint8_t>(num_rows);
  }
};

// Tiles are zero after it.
HWY_INLINE void AmxLoadConfig(const AmxConfig& config) {
  asm volatile("ldtilecfg %0" ::"m"(config));
}

// Until the next AmxLoadConfig there are no tiles, which the system then need not save.
HWY_INLINE void AmxRelease() {
  asm volatile("tilerelease");
}

template <int kTile>
HWY_INLINE void AmxZero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

// `stride` bytes from a row to the next. AmxFence stands between this and what writes that memory.
template <int kTile>
HWY_INLINE void AmxLoad(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile));
}

// The same for what is not read again soon: it pushes less out of the first-level cache.
template <int kTile>
HWY_INLINE void AmxLoadOnce(const void* from, int64_t stride) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile));
}

// To the compiler alone.
HWY_INLINE void AmxFence() {
  asm volatile("" ::: "memory");
}

template <int kTile>
HWY_INLINE void AmxStore(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
}

// sum += a x b, b as [16 pairs of k][16 columns][2].
template <int kSum, int kA, int kB>
HWY_INLINE void AmxDot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
}

// body(0), body(1), ..., as constants: numbers of registers are part of the instructions.
template <int kCount, typename Body>
HWY_INLINE void ForEach(const Body& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, I>()), ...);
  }
  (std::make_integer_sequence<int, kCount>());
}

}  // namespace ringserve
