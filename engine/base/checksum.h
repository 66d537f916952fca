// A 64-bit checksum of bytes: against accident (a bit that flipped, a file that was cut, pieces
// that changed places), not against malice. One changed bit always changes it: every step is a
// bijection of the word that it takes and of the state before.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace ringserve {

// Of equal bytes under different seeds it differs.
inline uint64_t Checksum(std::span<const std::byte> bytes, uint64_t seed = 0) {
  constexpr uint64_t kOdd[] = {
      0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f, 0xd6e8feb86659fd93, 0xa0761d6478bd642f};
  constexpr size_t kLanes = std::size(kOdd);
  constexpr size_t kStride = kLanes * sizeof(uint64_t);
  uint64_t lanes[kLanes] = {seed, ~seed, seed ^ kOdd[2], ~seed ^ kOdd[3]};
  const auto add = [&](const std::byte* from) {
    uint64_t words[kLanes];
    std::memcpy(words, from, kStride);
    for (size_t i = 0; i < kLanes; ++i) {  // independent of each other, for the processor's sake
      lanes[i] = std::rotl((lanes[i] ^ words[i]) * kOdd[i], 29);
    }
  };
  size_t at = 0;
  for (; at + kStride <= bytes.size(); at += kStride) {
    add(bytes.data() + at);
  }
  if (at < bytes.size()) {
    std::byte rest[kStride] = {};
    std::memcpy(rest, bytes.data() + at, bytes.size() - at);
    add(rest);
  }
  uint64_t sum = bytes.size() * kOdd[0];  // zeros at the end count
  for (const uint64_t lane : lanes) {
    sum = std::rotl((sum ^ lane) * kOdd[1], 31);
  }
  sum = (sum ^ (sum >> 32)) * kOdd[2];
  return sum ^ (sum >> 29);
}

}  // namespace ringserve
