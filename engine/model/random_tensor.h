// Made-up tensors, to measure a shape without files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/types.h"

namespace ringserve {

enum class RandomKind {
  kNormal,  // nearly normal, mean 0, standard deviation 0.02
  kOnes,
};

// Writes `count` elements of `dtype` to `to`, aligned to them; a function of the
// other arguments alone.
void FillRandomTensor(std::string_view name,
                      int64_t count,
                      RandomKind kind,
                      DType dtype,
                      uint64_t seed,
                      std::byte* to);

}  // namespace ringserve
