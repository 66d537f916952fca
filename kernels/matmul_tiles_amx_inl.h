// Tiles of a product by AMX: how they are read, multiplied and written. Included by
// matmul_kernel_amx.cc alone, on x86-64.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/amx_inl.h"
#include "kernels/types.h"

namespace ringserve {
namespace {

inline constexpr int64_t kTile = kAmxTileRows;  // rows of x, or outputs
inline constexpr int64_t kTileFloats = kTile * kTile;
inline constexpr int64_t kTileBytes = kTile * kAmxTileBytes;

// Where tiles of one side begin and how they go on.
struct Side {
  const std::byte* first = nullptr;
  int64_t row_bytes = 0;   // from a row of a tile to the next
  int64_t step_bytes = 0;  // to the next along k
  int64_t tile_bytes = 0;  // to the next rows or outputs
};

// Asks for what will be read, some lines at each step.
template <int kLocality>
class Fetcher {
 public:
  Fetcher(const std::byte* first, int64_t stride, int64_t num_lines)
      : next_(first), stride_(stride), num_lines_(num_lines) {}

  HWY_INLINE void Step() {
    for (int64_t line = 0; line < num_lines_; ++line) {
      __builtin_prefetch(next_, 0, kLocality);
      next_ += stride_;
    }
  }

 private:
  const std::byte* next_;
  int64_t stride_;  // bytes from a line to the next
  int64_t num_lines_;
};

// R x O tiles of results in the first four registers, then R of x, and the others for weights in
// turn.
template <int R, int O>
class Tiles {
 public:
  HWY_INLINE static void Zero() {
    ForEach<R * O>([](auto i) { AmxZero<kResult<i>>(); });
  }

  // Tiles one after the other.
  HWY_INLINE static void Load(const float* from) {
    ForEach<R * O>([=](auto i) { AmxLoad<kResult<i>>(from + i * kTileFloats, kAmxTileBytes); });
  }

  HWY_INLINE static void Store(float* to) {
    ForEach<R * O>([=](auto i) { AmxStore<kResult<i>>(to + i * kTileFloats, kAmxTileBytes); });
  }

  // Tiles of a matrix whose rows are `stride` floats apart.
  HWY_INLINE static void Load(const float* from, int64_t stride) {
    ForEach<R * O>([=](auto i) {
      AmxLoad<kResult<i>>(from + i / O * kTile * stride + i % O * kTile,
                          stride * int64_t{sizeof(float)});
    });
  }

  HWY_INLINE static void Store(float* to, int64_t stride) {
    ForEach<R * O>([=](auto i) {
      AmxStore<kResult<i>>(to + i / O * kTile * stride + i % O * kTile,
                           stride * int64_t{sizeof(float)});
    });
  }

  // Adds the products along so many steps. The weights are not read again soon.
  template <class... Fetchers>
  HWY_INLINE static void Add(const Side& x,
                             const Side& weight,
                             int64_t num_steps,
                             Fetchers&... fetchers) {
    const std::byte* x_at = x.first;
    const std::byte* weight_at = weight.first;
    AmxFence();
    for (int64_t step = 0; step < num_steps; ++step) {
      if constexpr (R > 1) {
        (fetchers.Step(), ...);
      }
      ForEach<R>([=](auto r) { AmxLoad<kX + r>(x_at + r * x.tile_bytes, x.row_bytes); });
      ForEach<O>([&](auto o) {
        constexpr int kNow = kWeight + o % kWeights;
        if constexpr (R == 1) {
          (fetchers.Step(), ...);  // in bursts they would stand in each other's way
          AmxLoad<kNow>(weight_at + o * weight.tile_bytes, weight.row_bytes);
        } else {
          AmxLoadOnce<kNow>(weight_at + o * weight.tile_bytes, weight.row_bytes);
        }
        ForEach<R>([=](auto r) { AmxDot<kResult<r * O + o>, kX + r, kNow>(); });
      });
      x_at += x.step_bytes;
      weight_at += weight.step_bytes;
    }
    AmxFence();
  }

  // Lays out the registers for `rows` rows of x by `outputs` along `pairs` pairs of k; where
  // results share a register for weights, `outputs` is a multiple of 16. They are zero then.
  static void Configure(int64_t rows, int64_t outputs, int64_t pairs) {
    const auto of = [](int64_t count, int tile) {
      return std::clamp<int64_t>(count - tile * kTile, 0, kTile);
    };
    AmxConfig config;
    for (int r = 0; r < R; ++r) {
      config.Set(kX + r, of(rows, r), pairs * 4);
      for (int o = 0; o < O; ++o) {
        config.Set(r * kRowResults + o, of(rows, r), of(outputs, o) * 4);
        config.Set(kWeight + o % kWeights, pairs, of(outputs, o) * 4);
      }
    }
    AmxLoadConfig(config);
  }

 private:
  static constexpr int kRowResults = 4 / R;
  template <int kTile>
  static constexpr int kResult = kTile / O* kRowResults + kTile % O;
  static constexpr int kX = 4;
  static constexpr int kWeight = kX + R;
  static constexpr int kWeights = 8 - kWeight;
};

}  // namespace
}  // namespace ringserve
