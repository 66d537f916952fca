// Made-up tensors, to measure a shape without files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "kernels/types.h"

namespace ringserve {

enum class RandomKind {
  kNormal,  // nearly normal, mean 0, standard deviation 0.02
  kOnes,
};

// `count` elements of `dtype` (kF32 or kBf16); a function of the arguments alone.
std::unique_ptr<std::byte[]> MakeRandomTensor(
    std::string_view name, int64_t count, RandomKind kind, DType dtype, uint64_t seed);

}  // namespace ringserve
