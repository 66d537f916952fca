// Where the layer loop keeps what it computes: one piece of device memory, by offsets.
#pragma once

#include <cstdint>

#include "engine/backend/backend.h"
#include "engine/model/model_config.h"
#include "kernels/kv_view.h"
#include "kernels/types.h"

namespace ringserve {

// Bytes from its start. Attention and feed-forward buffers are never alive together, so they
// share one region.
struct Workspace {
  int64_t angles[2];  // of each window group
  int64_t x, projected, normed, scales;
  int64_t qkv, q, attended;    // attention's share of the common region
  int64_t gate_up, activated;  // feed-forward's
  int64_t router, experts;     // of a mixture
  int64_t partials;
  int64_t encoder_kv;  // blocks of one layer of the encoder
  int64_t encoder_x;   // kept from step to step: its layers may take several
  int64_t gathered_x, gathered_projected, gathered_normed, logits;
  int64_t bytes;
};

// Of the blocks at encoder_kv.
KvLayout EncoderKv(const ModelConfig& config, int32_t block_size, DType dtype);

// Pure.
Workspace CarveWorkspace(const ModelConfig& config, DType dtype, const StepLimits& limits);

}  // namespace ringserve
