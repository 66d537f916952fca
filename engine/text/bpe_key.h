// Pairs of neighbours as keys of the hash tables of bpe.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ringserve {

inline uint64_t KeyOf(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

inline size_t HashOfKey(uint64_t key) {
  key *= 0x9e3779b97f4a7c15;
  return static_cast<size_t>(key ^ key >> 32);
}

}  // namespace ringserve
