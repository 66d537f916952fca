// Logits to token ids on a CUDA device, by the rules of the host's sampler: banned ids, biases and
// penalties aside (rows that need them are not for these kernels), temperature, then what top_k,
// top_p and min_p all keep, ranked by logit with ties by lower id; of the kept set the token with
// the largest logit / temperature + Gumbel noise (a function of seed, position and id) wins.
// Temperature 0 takes the first in rank. A row's result depends on its own logits and parameters
// alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

namespace ringserve::cuda {

// What one row of logits is for; plain data in device memory.
struct alignas(16) SampleCudaRow {
  int64_t position = 0;  // of the token to be chosen; keys the noise
  uint64_t seed = 0;
  int32_t logits_row = 0;
  int32_t forced_token = -1;   // >= 0: score it instead of sampling
  int32_t feedback_slot = -1;  // >= 0: where in `feedback` the chosen id goes
  int32_t top_k = 0;           // 0: no bound
  float top_p = 1;
  float min_p = 0;
  float temperature = 0;
  int32_t unused = 0;
};

static_assert(sizeof(SampleCudaRow) == 48);

// token_id -1: a logit is NaN or +infinity, or all are -infinity; its logprob is 0.
struct SampleCudaResult {
  int32_t token_id = 0;
  float logprob = 0;  // of the logits as they came
};

struct SampleCudaArgs {
  const float* logits = nullptr;  // [.., vocab_size], 16-byte aligned
  int32_t vocab_size = 0;
  const SampleCudaRow* rows = nullptr;
  int32_t num_rows = 0;
  SampleCudaResult* results = nullptr;  // [num_rows], device memory or mapped pinned memory
  int32_t* feedback = nullptr;          // device; may be null if no row names a slot
  std::byte* workspace = nullptr;       // SampleWorkspaceBytes(num_rows, vocab_size)
};

// Device bytes, 256-byte aligned, undefined before and after.
size_t SampleWorkspaceBytes(int32_t num_rows, int32_t vocab_size);

[[nodiscard]] cudaError_t LaunchSample(const SampleCudaArgs& args, cudaStream_t stream);

}  // namespace ringserve::cuda
