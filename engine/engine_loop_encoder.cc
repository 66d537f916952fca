// An encoder's prompt beside streams that wait for their next token: its rows see each other, so
// that it cannot be cut into chunks, but its layers run one after the other and may take several
// steps.
#include <algorithm>
#include <tuple>

#include "engine/engine_loop.h"

namespace ringserve {

// The view whose prompt is being encoded, or begins to be.
std::optional<size_t> EngineLoop::FindEncoding() {
  std::optional<size_t> first;
  const auto key = [this](size_t i) { return std::tuple(-views_[i].priority, views_[i].arrival); };
  for (size_t i = 0; i < views_.size(); ++i) {
    if (views_[i].source_left == 0 || views_[i].is_paused) {
      continue;
    }
    if (encoding_.has_value() && running_[i]->request_id() == encoding_->request_id) {
      return i;
    }
    if (!first.has_value() || key(i) < key(*first)) {
      first = i;
    }
  }
  encoding_.reset();  // it has ended, or waits for its client: what was done of it is lost
  return first;
}

std::optional<EngineLoop::EncoderSlice> EngineLoop::PlanEncoding(int32_t max_prefill_rows) {
  if (!parts_.shape.has_source) {
    return std::nullopt;
  }
  const std::optional<size_t> found = FindEncoding();
  if (!found.has_value()) {
    return std::nullopt;
  }
  const SequenceView& view = views_[*found];
  const bool is_bounded = parts_.scheduler.max_token_gap_ms > 0 &&
                          std::any_of(views_.begin(), views_.end(), [](const SequenceView& other) {
                            return other.prompt_left == 0 && !other.is_paused;
                          });
  if (!encoding_.has_value()) {
    if (!is_bounded || view.source_left <= max_prefill_rows) {
      return std::nullopt;
    }
    encoding_ = {.request_id = running_[*found]->request_id()};
  }
  const int32_t num_layers = parts_.num_encoder_layers;
  const int64_t affordable = int64_t{max_prefill_rows} * num_layers / view.source_left;
  EncoderSlice slice = {.view = *found, .end_layer = num_layers};
  if (is_bounded) {
    slice.end_layer = static_cast<int32_t>(
        std::min<int64_t>(num_layers, encoding_->num_layers + std::max<int64_t>(affordable, 1)));
  }
  for (size_t i = 0; i < views_.size(); ++i) {
    const bool is_other = i != *found && views_[i].source_left > 0;
    if (is_other || (i == *found && slice.end_layer < num_layers)) {
      views_[i].is_paused = true;
    }
  }
  return slice;
}

void EngineLoop::AddEncoding(const EncoderSlice& slice, Flight& flight) {
  const Sequence& sequence = *running_[slice.view];
  const int32_t num_layers = parts_.num_encoder_layers;
  const bool is_last = slice.end_layer == num_layers;
  if (is_last && flight.num_source_rows == 0) {
    return;  // it has found no place in this step
  }
  const int32_t first_layer = encoding_->num_layers;
  const int64_t num_rows = is_last ? flight.num_source_rows : sequence.source_left();
  flight.num_source_rows =
      std::max<int64_t>(num_rows * (slice.end_layer - first_layer) / num_layers, 1);
  if (is_last) {
    flight.batch.source.first_layer = first_layer;
    encoding_.reset();
    return;
  }
  flight.batch.AddLayers(
      sequence.request().prompt, parts_.shape.block_size, first_layer, slice.end_layer);
  encoding_->num_layers = slice.end_layer;
}

}  // namespace ringserve
