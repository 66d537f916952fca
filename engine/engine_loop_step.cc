// One step of all that run: who takes part, their blocks on the device, the model, what came of it.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "engine/engine_loop.h"

namespace ringserve {
namespace {

// Who was left out of so many steps for want of device memory goes before all of its priority.
constexpr int64_t kMaxStepsLeftOut = 64;

}  // namespace

bool EngineLoop::RunStep() {
  const bool had_flight = flying_ != nullptr;
  if (had_flight && !MayRunAhead()) {
    Land();
    RemoveEnded();
  }
  Flight* const before = flying_;
  const bool has_launched = Launch();
  // Not after a fault, which drops what is under way.
  if (before != nullptr && counters_.healthy) {
    Land(*before);
    if (!has_launched) {
      flying_ = nullptr;
    }
  }
  if (!runs_ahead_) {
    Land();
  }
  return had_flight || has_launched;
}

bool EngineLoop::MayRunAhead() const {
  return std::none_of(running_.begin(), running_.end(), [](const auto& sequence) {
    return sequence->NeedsEveryToken();
  });
}

bool EngineLoop::Launch() {
  views_.clear();
  FindLeaders();
  HoldLeaders();
  if (FaultIfNotCopied()) {
    return true;
  }
  if (absl::Status drafted = DraftTokens(); !drafted.ok()) {
    Fault(drafted);
    return true;
  }
  for (const auto& sequence : running_) {
    views_.push_back(sequence->View());
  }
  Flight& flight = flying_ == flights_.data() ? flights_[1] : flights_[0];
  const int32_t max_prefill_rows = MaxPrefillRows();
  const bool is_bounded = max_prefill_rows < parts_.scheduler.prefill_size;
  const std::optional<EncoderSlice> slice = PlanEncoding(max_prefill_rows);
  FitDevice(max_prefill_rows);
  PlanStep(views_,
           {.max_sequences = parts_.scheduler.max_batch,
            .max_prefill_rows = max_prefill_rows,
            .tile_size = is_bounded ? parts_.runner.tiles.tile_size : 1},
           flight.plan);
  if (flight.plan.empty()) {
    return false;
  }
  flight.launched = parts_.stopwatch();
  absl::Status status = BuildBatch(flight);
  if (slice.has_value()) {
    AddEncoding(*slice, flight);
  }
  if (status.ok()) {
    status = runner_.Launch(flight.batch);
  }
  counters_.kernel_time = runner_.kernel_time();
  if (!status.ok()) {
    Fault(status);
    return true;
  }
  flying_ = &flight;
  counters_.tiles_dense += runner_.tile_counts().dense;
  counters_.tiles_triangle += runner_.tile_counts().triangle;
  counters_.tiles_skipped += runner_.tile_counts().skip;
  counters_.block_loads += runner_.tile_counts().block_loads;
  return true;
}

// With no one decoding there is no gap to keep. Who has read its prompt and waits for its first
// token decodes.
int32_t EngineLoop::MaxPrefillRows() const {
  int64_t num_decoding = 0;
  int64_t num_keys = 0;
  for (size_t i = 0; i < running_.size(); ++i) {
    const SequenceView& view = views_[i];
    if (view.prompt_left == 0 && !running_[i]->is_paused()) {
      ++num_decoding;
    } else if (view.prompt_left > 0 && !view.is_paused) {
      num_keys = std::max(num_keys, view.num_keys);
    }
  }
  return num_decoding == 0 ? parts_.scheduler.prefill_size
                           : prefill_budget_.Rows(row_cost_.StepMs(num_decoding), num_keys);
}

void EngineLoop::LearnCosts(const Flight& flight, double step_ms) {
  const auto num_sequences = static_cast<int64_t>(flight.plan.size());
  if (!flight.plan.back().is_prefill && flight.num_source_rows == 0) {
    row_cost_.Learn(num_sequences, flight.batch.num_rows() - num_sequences, step_ms);
    return;
  }
  int64_t num_decoding = 0;
  int64_t num_rows = flight.num_source_rows;
  int64_t num_pairs = 0;
  for (size_t i = 0; i < flight.plan.size(); ++i) {
    const ScheduledRows& rows = flight.plan[i];
    if (!rows.is_prefill) {
      ++num_decoding;
      continue;
    }
    const TileSequence& sequence = flight.batch.sequences[i];
    const int64_t num_keys = int64_t{sequence.num_entries} * parts_.shape.block_size;
    num_rows += rows.num_rows;
    num_pairs += rows.num_rows * std::max<int64_t>(num_keys - rows.num_rows / 2, 0);
  }
  prefill_budget_.Learn(num_rows,
                        num_pairs / num_rows,
                        row_cost_.StepMs(std::max<int64_t>(num_decoding, 1)),
                        step_ms);
}

void EngineLoop::FitDevice(int32_t max_prefill_rows) {
  residency_.BeginStep();
  if (parts_.host_blocks == 0) {
    return;  // what was admitted fits
  }
  order_.clear();
  for (size_t i = 0; i < running_.size(); ++i) {
    if (!views_[i].is_paused) {
      order_.push_back(i);
    }
  }
  std::sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
    return std::pair(-views_[a].priority, running_[a]->rank()) <
           std::pair(-views_[b].priority, running_[b]->rank());
  });
  for (const size_t i : order_) {
    Sequence& sequence = *running_[i];
    blocks_.clear();
    sequence.session().CollectBlocks(blocks_);
    const bool fits = residency_.TryPin(blocks_, sequence.NewBlocks(max_prefill_rows));
    sequence.set_left_out(!fits);
    views_[i].is_paused = !fits;
  }
  // Last first, so that they keep their order.
  for (auto i = order_.rbegin(); i != order_.rend(); ++i) {
    if (running_[*i]->num_steps_left_out() >= kMaxStepsLeftOut) {
      running_[*i]->set_rank(next_front_rank_--);
    }
  }
}

absl::Status EngineLoop::BuildBatch(Flight& flight) {
  flight.num_source_rows = 0;
  for (const ScheduledRows& rows : flight.plan) {
    flight.num_source_rows += rows.num_source_rows;
  }
  flight.batch.Build(flight.plan, running_, ++counters_.steps);
  if (parts_.host_blocks > 0) {
    blocks_.clear();
    flight.batch.CollectBlocks(parts_.shape.block_size, blocks_);
    RETURN_IF_ERROR(residency_.Bring(blocks_));
  }
  flight.batch.Place(pool_, parts_.shape.block_size);
  return absl::OkStatus();
}

void EngineLoop::Land() {
  if (flying_ != nullptr) {
    Land(*std::exchange(flying_, nullptr));
  }
}

void EngineLoop::Land(Flight& flight) {
  const absl::Status status = runner_.Await();
  counters_.kernel_time = runner_.kernel_time();
  if (!status.ok()) {
    Fault(status);
    return;
  }
  const auto landed = parts_.stopwatch();
  const std::chrono::duration<double, std::milli> took =
      landed - std::max(flight.launched, last_landing_);
  LearnCosts(flight, took.count());
  last_landing_ = landed;
  Retire(flight, parts_.clock());
  FaultIfNotCopied();
}

std::unique_ptr<Sequence>* EngineLoop::Find(const Flight& flight, size_t index) {
  const uint64_t request_id = flight.batch.request_ids[index];
  const auto is_it = [request_id](const std::unique_ptr<Sequence>& sequence) {
    return sequence != nullptr && sequence->request_id() == request_id;
  };
  // Mostly nothing has moved since the launch.
  const auto place = static_cast<size_t>(flight.plan[index].sequence);
  if (place < running_.size() && is_it(running_[place])) {
    return &running_[place];
  }
  const auto found = std::find_if(running_.begin(), running_.end(), is_it);
  return found == running_.end() ? nullptr : &*found;
}

void EngineLoop::Retire(Flight& flight, absl::Time now) {
  for (size_t i = 0; i < flight.plan.size(); ++i) {
    std::unique_ptr<Sequence>* const found = Find(flight, i);
    if (found == nullptr) {
      continue;
    }
    const ScheduledRows& rows = flight.plan[i];
    const int64_t first_position = flight.batch.sequences[i].first_position;
    auto next_result = static_cast<size_t>(flight.batch.first_results[i]);
    std::unique_ptr<Sequence>& sequence = *found;
    const uint64_t request_id = sequence->request_id();
    if (const auto& notice = flight.batch.notices[i]; notice.has_value()) {
      counters_.evicted_tokens += notice->evicted_tokens;
      Tell(request_id, *notice);
    }
    if (sequence->is_reading()) {
      RetireReading(flight, i, sequence, now);
      continue;
    }
    bool is_sound = true;
    if (rows.is_prefill) {
      counters_.prompt_tokens += sequence->NumPromptTokens(rows, first_position);
      if (sequence->request().output.prompt_logprobs) {
        is_sound = TellPromptLogprobs(flight, i, *sequence, next_result);
      }
      if (!rows.is_sampled) {
        Tell(request_id,
             ProgressEvent{
                 .prefilled_tokens = sequence->NumPrefilled(first_position + rows.num_rows),
                 .prompt_tokens = sequence->usage().prompt_tokens});
      }
    }
    if (!is_sound) {
      FailNoToken(sequence);
    } else if (rows.is_sampled) {
      const auto num_sampled = static_cast<size_t>(rows.is_prefill ? 1 : rows.num_rows);
      const std::span<ScoredToken> results =
          std::span(flight.batch.results).subspan(next_result, num_sampled);
      if (rows.is_prefill && results.front().token.token_id != kNoToken) {
        SharePrefix(*sequence);
        ForkSiblings(*sequence);
      }
      TellTokens(sequence, results, now);
    }
  }
}

bool EngineLoop::TellPromptLogprobs(Flight& flight,
                                    size_t index,
                                    Sequence& sequence,
                                    size_t& next_result) {
  const ScheduledRows& rows = flight.plan[index];
  int64_t position = flight.batch.sequences[index].first_position;
  const int64_t end = position + rows.num_rows - (rows.is_sampled ? 1 : 0);
  while (position < end && !sequence.IsScored(position)) {
    ++position;  // a session's pending token
  }
  const int64_t num_scored = end - position;
  PromptLogprobsEvent event;
  event.first_index = sequence.ScoredIndex(position);
  bool is_sound = true;
  for (int64_t i = 0; i < num_scored; ++i) {
    event.tokens.push_back(std::move(flight.batch.results[next_result++]));
    is_sound = is_sound && event.tokens.back().token.token_id != kNoToken;
  }
  if (is_sound && num_scored > 0) {
    Tell(sequence.request_id(), std::move(event));
  }
  return is_sound;
}

void EngineLoop::TellToken(std::unique_ptr<Sequence>& sequence,
                           ScoredToken& result,
                           absl::Time now) {
  const uint64_t request_id = sequence->request_id();
  const int64_t index = sequence->usage().completion_tokens;
  const int64_t num_accepted = sequence->usage().accepted_tokens;
  const std::optional<FinishReason> reason = sequence->TakeToken(result, now);
  counters_.accepted_tokens += sequence->usage().accepted_tokens - num_accepted;
  ++counters_.completion_tokens;
  Tell(request_id, SampledTokenEvent{.index = index, .token = std::move(result)});
  if (reason.has_value() && HasCancel(request_id)) {
    FailRunning(sequence, Cancelled());
  } else if (reason.has_value()) {
    Tell(request_id, sequence->Finish(*reason, now));
    SharePrefix(*sequence);
    End(sequence);
  }
}

void EngineLoop::FindLeaders() {
  for (const auto& sequence : running_) {
    const std::optional<uint64_t> leader_id = sequence->leader();
    if (!leader_id.has_value()) {
      continue;
    }
    if (sequence->session().position() > 0) {
      sequence->set_leader(std::nullopt);  // it found a beginning elsewhere, and has begun
      continue;
    }
    const Sequence* const leader = FindRunning(*leader_id);
    if (leader != nullptr) {
      if (leader->HasReadShared()) {
        ForkPrompt(*leader, *sequence);
      }
      continue;
    }
    for (const auto& other : running_) {
      if (other->leader() == leader_id) {
        other->set_leader(sequence->request_id());
      }
    }
    sequence->set_leader(std::nullopt);
  }
}

void EngineLoop::ForkSiblings(const Sequence& leader) {
  for (const auto& sequence : running_) {
    if (sequence != nullptr && sequence->leader() == leader.request_id()) {
      ForkPrompt(leader, *sequence);
    }
  }
}

void EngineLoop::ForkPrompt(const Sequence& leader, Sequence& sibling) {
  if (leader.session().rollback_floor() >= sibling.usage().prompt_tokens) {
    sibling.set_leader(std::nullopt);  // the leader's window has left the prompt
    return;
  }
  std::vector<BlockCopy> copies;
  sibling.TakePrompt(leader, copies);
  for (const BlockCopy& copy : copies) {
    copied_.Update(memory_.CopyBlock(copy.from, copy.to));
  }
}

Sequence* EngineLoop::FindRunning(uint64_t request_id) const {
  for (const auto& sequence : running_) {
    if (sequence != nullptr && sequence->request_id() == request_id) {
      return sequence.get();
    }
  }
  return nullptr;
}

bool EngineLoop::FaultIfNotCopied() {
  copied_.Update(sessions_.TakeCopyStatus());
  if (copied_.ok()) {
    return false;
  }
  Fault(std::exchange(copied_, absl::OkStatus()));
  return true;
}

}  // namespace ringserve
