#include "tests/bench/ceiling_amx.h"

#include <hwy/base.h>

#if HWY_ARCH_X86_64
#include <algorithm>
#include <iterator>

#include "kernels/amx_inl.h"

namespace ringserve {

float MultiplyAmx(int64_t num_steps) {
  AmxConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.Set(tile, kAmxTileRows, kAmxTileBytes);
  }
  AmxLoadConfig(config);  // results 0 to 3 are zero
  uint32_t ones[kAmxTileRows * kAmxTileBytes / 4];
  std::fill(std::begin(ones), std::end(ones), 0x3f803f80);
  AmxLoad<4>(ones, kAmxTileBytes);
  AmxLoad<5>(ones, kAmxTileBytes);
  AmxLoad<6>(ones, kAmxTileBytes);
  AmxLoad<7>(ones, kAmxTileBytes);
  for (int64_t step = 0; step < num_steps; ++step) {
    AmxDot<0, 4, 6>();
    AmxDot<1, 4, 7>();
    AmxDot<2, 5, 6>();
    AmxDot<3, 5, 7>();
  }
  float out[4][kAmxTileRows * kAmxTileRows];
  AmxStore<0>(out[0], kAmxTileBytes);
  AmxStore<1>(out[1], kAmxTileBytes);
  AmxStore<2>(out[2], kAmxTileBytes);
  AmxStore<3>(out[3], kAmxTileBytes);
  AmxRelease();
  return out[0][0] + out[1][0] + out[2][0] + out[3][0];
}

}  // namespace ringserve

#else

#include <cstdlib>

namespace ringserve {

float MultiplyAmx(int64_t /*num_steps*/) {
  std::abort();
}

}  // namespace ringserve

#endif
