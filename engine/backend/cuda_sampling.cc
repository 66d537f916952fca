#include "engine/backend/cuda_sampling.h"

#include <algorithm>

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

absl::Status CudaSampler::Sample(const SampleArgs& args, const Step& step) {
  ASSIGN_OR_RETURN(const CudaStaging::Results results, step.staging.TakeResults(args.rows.size()));
  ASSIGN_OR_RETURN(const CudaStaging::Place place,
                   step.staging.Take(args.rows.size() * sizeof(cuda::SampleCudaRow)));
  auto* rows_to_send = reinterpret_cast<cuda::SampleCudaRow*>(place.host);
  for (size_t i = 0; i < args.rows.size(); ++i) {
    rows_to_send[i] =
        SamplesOnDevice(args.rows[i]) ? DeviceRow(args.rows[i]) : cuda::SampleCudaRow();
    rows_to_send[i].feedback_slot = results.first + static_cast<int32_t>(i);
  }
  // Every block of the sampler reads a row: over the bus that would take longer than the logits.
  RETURN_IF_ERROR(step.staging.Flush(step.stream));
  const Places places = {.rows = reinterpret_cast<const cuda::SampleCudaRow*>(place.device),
                         .results = results.at};
  // Runs of rows that the same side samples; results keep their places.
  for (size_t first = 0; first < args.rows.size();) {
    const bool on_device = SamplesOnDevice(args.rows[first]);
    size_t end = first;
    while (end < args.rows.size() && SamplesOnDevice(args.rows[end]) == on_device) {
      ++end;
    }
    const Rows rows = {
        .first = first, .count = end - first, .place = results.first + static_cast<int32_t>(first)};
    RETURN_IF_ERROR(on_device ? OnDevice(args, rows, places, step) : OnHost(args, rows, step));
    first = end;
  }
  return absl::OkStatus();
}

absl::Status CudaSampler::OnDevice(const SampleArgs& args,
                                   const Rows& rows,
                                   const Places& places,
                                   const Step& step) {
  RETURN_IF_ERROR(FromCuda(cuda::LaunchSample({.logits = args.logits,
                                               .vocab_size = args.vocab_size,
                                               .rows = places.rows + rows.first,
                                               .num_rows = static_cast<int32_t>(rows.count),
                                               .results = places.results + rows.first,
                                               .feedback = IdsOf(step_),
                                               .workspace = memory_.workspace},
                                              step.stream.get()),
                           "sampling"));
  pending_[static_cast<size_t>(step.staging.slot())].push_back(
      {.from = places.results + rows.first, .to = args.results.subspan(rows.first, rows.count)});
  return absl::OkStatus();
}

// The logits come down, the ids go up.
absl::Status CudaSampler::OnHost(const SampleArgs& args, const Rows& rows, const Step& step) {
  RETURN_IF_ERROR(step.graph.Launch(step.stream));  // copies must not wait for the step's end
  const int64_t vocab_size = args.vocab_size;
  const auto copy = [&step](void* to, const void* from, size_t bytes) {
    return FromCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, step.stream.get()),
                    "copying logits");
  };
  const auto await = [&step] {
    return FromCuda(cudaStreamSynchronize(step.stream.get()), "a step");
  };
  for (size_t done = 0; done < rows.count;) {
    const size_t count = std::min(rows.count - done, static_cast<size_t>(kHostSampleRows));
    const size_t first = rows.first + done;
    for (size_t i = 0; i < count; ++i) {
      RETURN_IF_ERROR(copy(memory_.logits + static_cast<int64_t>(i) * vocab_size,
                           args.logits + args.rows[first + i].logits_row * vocab_size,
                           static_cast<size_t>(vocab_size) * sizeof(float)));
    }
    RETURN_IF_ERROR(await());
    pool_->ParallelFor(static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const size_t index = first + static_cast<size_t>(i);
        args.results[index] =
            SampleLogits(memory_.logits + i * vocab_size, args.vocab_size, args.rows[index]);
        memory_.ids[i] = args.results[index].token.token_id;
      }
    });
    RETURN_IF_ERROR(copy(IdsOf(step_) + rows.place + static_cast<int64_t>(done),
                         memory_.ids,
                         count * sizeof(int32_t)));
    RETURN_IF_ERROR(await());  // before the ids are written again
    done += count;
  }
  return absl::OkStatus();
}

void CudaSampler::Deliver(int32_t slot) {
  std::vector<Pending>& results = pending_[static_cast<size_t>(slot)];
  for (const Pending& pending : results) {
    for (size_t i = 0; i < pending.to.size(); ++i) {
      pending.to[i].token = {pending.from[i].token_id, pending.from[i].logprob};
      pending.to[i].alternatives.clear();
    }
  }
  results.clear();
}

}  // namespace ringserve
