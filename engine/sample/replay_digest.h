// A fingerprint of a completion: equal digests mean equal token ids and equal bits of their
// logprobs (FNV-1a over 64-bit words with a finalizer; against accident, not against malice).
#pragma once

#include <bit>
#include <cstdint>

namespace ringserve {

class ReplayDigest {
 public:
  void Add(int32_t token_id, float logprob) {
    const uint64_t word =
        (uint64_t{static_cast<uint32_t>(token_id)} << 32) | std::bit_cast<uint32_t>(logprob);
    state_ = (state_ ^ word) * 0x100000001b3U;
    state_ ^= state_ >> 29;
  }

  uint64_t value() const {
    uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
  }

 private:
  uint64_t state_ = 0xcbf29ce484222325U;
};

}  // namespace ringserve
