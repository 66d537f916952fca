#include "engine/step_runner.h"

#include <algorithm>
#include <chrono>
#include <span>

namespace ringserve {

absl::Status StepRunner::Launch(StepBatch& batch) {
  PlanTiles({.sequences = batch.sequences, .entries = batch.entries}, parts_.tiles, tile_plan_);
  if (parts_.local_tiles.has_value()) {
    PlanTiles({.sequences = batch.local_sequences, .entries = batch.local_entries},
              *parts_.local_tiles,
              local_plan_);
  }
  if (parts_.has_encoder) {
    PlanSource(batch);
  }
  const auto started = std::chrono::steady_clock::now();
  absl::Status status = LaunchModel(batch);
  kernel_time_ += absl::FromChrono(std::chrono::steady_clock::now() - started);
  return status;
}

void StepRunner::PlanSource(const StepBatch& batch) {
  TileOptions options = parts_.tiles;
  options.causal = false;
  PlanTiles(
      {.sequences = batch.cross_sequences, .entries = batch.cross_entries}, options, cross_plan_);
  PlanTiles({.sequences = batch.source.sequences, .entries = batch.source.entries},
            options,
            encoder_plan_);
}

absl::Status StepRunner::Await() {
  const auto started = std::chrono::steady_clock::now();
  absl::Status status = parts_.backend->AwaitStep();
  kernel_time_ += absl::FromChrono(std::chrono::steady_clock::now() - started);
  return status;
}

absl::Status StepRunner::LaunchModel(StepBatch& batch) {
  StepInput input;
  input.token_ids = batch.token_ids;
  input.positions = batch.positions;
  input.slots = batch.slots;
  if (batch.writes_sinks) {
    input.sink_slots = batch.sink_slots;
  }
  input.tiles = &tile_plan_;
  const LocalStep local = {.tiles = &local_plan_,
                           .kv_pool = parts_.local_kv_pool,
                           .kv = parts_.local_kv,
                           .slots = batch.local_slots};
  if (parts_.local_tiles.has_value()) {
    input.local = &local;
  }
  const EncoderStep encoder = {.token_ids = batch.source.token_ids,
                               .slots = batch.source.slots,
                               .scratch_slots = batch.source.scratch_slots,
                               .tiles = &encoder_plan_,
                               .first_layer = batch.source.first_layer,
                               .end_layer = batch.source.end_layer};
  if (parts_.has_encoder) {
    input.cross_tiles = &cross_plan_;
    input.encoder = batch.source.token_ids.empty() ? nullptr : &encoder;
  }
  RETURN_IF_ERROR(parts_.model->Run(input, parts_.kv_pool, parts_.kv));
  // Scoring a prompt wants more logits than the workspace holds at once.
  const auto max_rows = static_cast<size_t>(parts_.model->limits().max_logits_rows);
  for (size_t first = 0; first < batch.logits_rows.size(); first += max_rows) {
    const size_t count = std::min(max_rows, batch.logits_rows.size() - first);
    ASSIGN_OR_RETURN(
        const float* logits,
        parts_.model->ComputeLogits(std::span(batch.logits_rows).subspan(first, count)));
    const std::span<SampleRow> rows = std::span(batch.sample_rows).subspan(first, count);
    for (size_t i = 0; i < count; ++i) {
      rows[i].logits_row = static_cast<int32_t>(i);
    }
    SampleArgs args;
    args.logits = logits;
    args.vocab_size = parts_.vocab_size;
    args.rows = rows;
    args.results = std::span(batch.results).subspan(first, count);
    RETURN_IF_ERROR(parts_.backend->Sample(args));
  }
  RETURN_IF_ERROR(FetchHidden(batch));
  return parts_.backend->EndStep();
}

// As many rows at once as the workspace gathers.
absl::Status StepRunner::FetchHidden(StepBatch& batch) {
  const auto hidden_dim = static_cast<size_t>(parts_.model->hidden_dim());
  batch.hidden.resize(batch.hidden_rows.size() * hidden_dim);  // the loop has reserved it
  const auto max_rows = static_cast<size_t>(parts_.model->limits().max_logits_rows);
  for (size_t first = 0; first < batch.hidden_rows.size(); first += max_rows) {
    const size_t count = std::min(max_rows, batch.hidden_rows.size() - first);
    ASSIGN_OR_RETURN(
        const float* hidden,
        parts_.model->ComputeHidden(std::span(batch.hidden_rows).subspan(first, count)));
    const std::span<float> to = std::span(batch.hidden).subspan(first * hidden_dim);
    RETURN_IF_ERROR(parts_.backend->Copy(reinterpret_cast<std::byte*>(to.data()),
                                         reinterpret_cast<const std::byte*>(hidden),
                                         count * hidden_dim * sizeof(float)));
  }
  return absl::OkStatus();
}

}  // namespace ringserve
