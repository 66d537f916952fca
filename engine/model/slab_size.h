// How many bytes the parts of the weights' slab take: the same for who plans and who fills it.
#pragma once

#include <cstdint>

#include "engine/backend/backend.h"
#include "engine/model/model_config.h"
#include "engine/model/tensor_names.h"
#include "kernels/types.h"

namespace ringserve {

// Of parts kept in float32: norms, biases, positions.
int64_t FloatBytes(const TensorParts& parts);

// Of a table of biases by distance.
int64_t BiasBytes(const ModelConfig& config);

// The device's copy of the embedding table, where it needs one.
int64_t TableBytes(const ModelConfig& config, DType dtype, const Backend& backend);

}  // namespace ringserve
