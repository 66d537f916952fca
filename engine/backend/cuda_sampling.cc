#include "engine/backend/cuda_sampling.h"

namespace ringserve {

bool SamplesOnDevice(const SampleRow& row) {
  return row.num_logprobs == 0 && (row.params == nullptr || !ChangesLogits(row));
}

cuda::SampleCudaRow DeviceRow(const SampleRow& row) {
  cuda::SampleCudaRow device;
  device.position = row.position;
  device.logits_row = row.logits_row;
  if (row.params == nullptr) {
    device.forced_token = row.forced_token;
    return device;
  }
  device.seed = row.params->seed;
  device.top_k = row.params->top_k;
  device.top_p = row.params->top_p;
  device.min_p = row.params->min_p;
  device.temperature = row.params->temperature;
  return device;
}

}  // namespace ringserve
