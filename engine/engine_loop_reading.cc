// Steps of sequences that only read: a completion that was given, or a prompt for its embedding.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "engine/engine_loop.h"

namespace ringserve {
namespace {

// Where the results of an entry of the plan end, which begin at firsts[index].
size_t EndOf(const std::vector<int32_t>& firsts, size_t index, size_t num_results) {
  return index + 1 < firsts.size() ? static_cast<size_t>(firsts[index + 1]) : num_results;
}

}  // namespace

void EngineLoop::HoldLeaders() {
  for (const auto& sequence : running_) {
    sequence->Hold(false);
  }
  std::optional<uint64_t> last;  // siblings wait one behind the other
  for (const auto& [key, waiting] : waiting_) {
    const std::optional<uint64_t> leader = waiting.queued.leader;
    if (!leader.has_value() || leader == last) {
      continue;
    }
    last = leader;
    Sequence* const sequence = FindRunning(*leader);
    if (sequence != nullptr && sequence->is_reading()) {
      sequence->Hold(true);
    }
  }
}

// A leader holds its prompt, and what waits for memory may be before its siblings: if nothing else
// is to end, it has to.
void EngineLoop::LetLeadersGo() {
  const bool is_stuck = std::none_of(
      running_.begin(), running_.end(), [](const auto& sequence) { return sequence->is_active(); });
  for (const auto& sequence : running_) {
    if (is_stuck && sequence->is_held()) {
      sequence->LetGo();
    }
  }
}

void EngineLoop::RetireReading(Flight& flight,
                               size_t index,
                               std::unique_ptr<Sequence>& sequence,
                               absl::Time now) {
  const ScheduledRows& rows = flight.plan[index];
  const int64_t first_position = flight.batch.sequences[index].first_position;
  const uint64_t request_id = sequence->request_id();
  counters_.prompt_tokens += sequence->NumPromptTokens(rows, first_position);
  const int64_t num_prefilled = sequence->NumPrefilled(first_position + rows.num_rows);
  if (num_prefilled < sequence->usage().prompt_tokens) {
    Tell(request_id,
         ProgressEvent{.prefilled_tokens = num_prefilled,
                       .prompt_tokens = sequence->usage().prompt_tokens});
  }
  if (!TellReading(flight, index, *sequence, now)) {
    FailNoToken(sequence);
    return;
  }
  if (!rows.is_sampled) {
    return;
  }
  SharePrefix(*sequence);
  ForkSiblings(*sequence);
  if (HasCancel(request_id)) {
    FailRunning(sequence, Cancelled());
    return;
  }
  if (sequence->is_embedding()) {
    std::vector<float> values = sequence->Embedding();
    if (values.empty()) {
      FailNoToken(sequence);
      return;
    }
    Tell(request_id, EmbeddingEvent{std::move(values)});
  }
  Tell(request_id, sequence->Finish(FinishReason::kRead, now));
  End(sequence);
}

bool EngineLoop::TellReading(Flight& flight, size_t index, Sequence& sequence, absl::Time now) {
  StepBatch& batch = flight.batch;
  const size_t end = EndOf(batch.first_results, index, batch.results.size());
  for (auto i = static_cast<size_t>(batch.first_results[index]); i < end; ++i) {
    if (batch.results[i].token.token_id == kNoToken) {
      return false;
    }
    const int64_t place = sequence.usage().completion_tokens;
    sequence.TakeGiven(batch.results[i], now);
    ++counters_.completion_tokens;
    Tell(sequence.request_id(),
         SampledTokenEvent{.index = place, .token = std::move(batch.results[i])});
  }
  const auto first_hidden = static_cast<size_t>(batch.first_hidden[index]);
  const size_t num_hidden =
      EndOf(batch.first_hidden, index, batch.hidden_rows.size()) - first_hidden;
  if (num_hidden > 0) {
    const size_t hidden_dim = batch.hidden.size() / batch.hidden_rows.size();
    sequence.TakeHidden(
        std::span(batch.hidden).subspan(first_hidden * hidden_dim, num_hidden * hidden_dim),
        hidden_dim);
  }
  return true;
}

}  // namespace ringserve
