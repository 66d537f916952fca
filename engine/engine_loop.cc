#include "engine/engine_loop.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iterator>
#include <string>

#include <fmt/format.h>

#include "engine/base/check.h"

namespace ringserve {
namespace {

absl::Time WaitingDeadline(const QueuedRequest& queued) {
  return std::min(queued.request.deadline, queued.arrival_time + queued.request.queue_timeout);
}

absl::Status QueueTimeout(const QueuedRequest& queued, absl::Time now) {
  if (now >= queued.request.deadline) {
    return absl::DeadlineExceededError("the deadline passed while the request was queued");
  }
  return absl::DeadlineExceededError(
      fmt::format("queue_timeout: there was no place in the batch within {}",
                  absl::FormatDuration(queued.request.queue_timeout)));
}

}  // namespace

EngineLoop::EngineLoop(const Parts& parts, EventSink& sink)
    : parts_(parts),
      sink_(sink),
      queue_(parts.scheduler.max_queue, parts.scheduler.max_batch),
      pool_(parts.device_blocks),
      memory_(*parts.runner.backend, parts.runner.kv_pool, parts.runner.kv),
      sessions_({parts.shape, parts.sessions, parts.make_session_id}, pool_, memory_),
      runner_(parts.runner),
      runs_ahead_(parts.runner.backend->info().runs_ahead),
      prefill_budget_(parts.scheduler.prefill_size, parts.scheduler.max_token_gap_ms) {
  counters_.max_batch = parts.scheduler.max_batch;
  counters_.max_queue = parts.scheduler.max_queue;
  counters_.device_blocks = parts.device_blocks;
  UpdateLoad();
}

// The step under way writes its results into a flight.
EngineLoop::~EngineLoop() {
  if (flying_ != nullptr) {
    runner_.Await().IgnoreError();  // nobody is left to be told
  }
}

absl::Status EngineLoop::Submit(GenerateRequest request) {
  if (!request.turn.has_value()) {
    RETURN_IF_ERROR(CheckFits(WorstCaseBlocks(parts_.shape, MaxPositions(request))));
  }
  return queue_.Push(std::move(request), parts_.clock());
}

EngineLoad EngineLoop::load() const {
  const absl::MutexLock lock(&load_mutex_);
  return load_;
}

bool EngineLoop::Step() {
  const auto started = std::chrono::steady_clock::now();
  const absl::Time now = parts_.clock();
  TakeNews();
  Expire(now);
  sessions_.Expire(now);
  Admit(now);
  const bool has_run = RunStep();
  RemoveEnded();
  RS_DCHECK(PoolBalances());
  const auto before_publish = std::chrono::steady_clock::now();
  if (has_run) {
    counters_.step_time += absl::FromChrono(before_publish - started);
  }
  Publish();
  if (has_run) {
    counters_.step_time += absl::FromChrono(std::chrono::steady_clock::now() - before_publish);
  }
  return has_run;
}

absl::Time EngineLoop::NextDeadline() const {
  absl::Time next = sessions_.next_expiry();
  for (const auto& [key, waiting] : waiting_) {
    next = std::min(next, WaitingDeadline(waiting.queued));
  }
  for (const auto& sequence : running_) {
    next = std::min(next, sequence->request().deadline);
  }
  return waiting_.empty() && running_.empty() ? next : std::min(next, queue_.drain_deadline());
}

void EngineLoop::EndAll(const absl::Status& status) {
  TakeNews();
  Land();
  RemoveEnded();
  for (auto& sequence : running_) {
    if (sequence != nullptr) {
      FailRunning(sequence, status);
    }
  }
  RemoveEnded();
  for (const auto& [key, waiting] : waiting_) {
    FailWaiting(waiting, status);
  }
  waiting_.clear();
  Publish();
}

bool EngineLoop::PoolBalances() const {
  std::vector<int32_t> blocks;
  for (const auto& sequence : running_) {
    if (sequence != nullptr && sequence->entry() == nullptr) {
      sequence->session().CollectBlocks(blocks);
    }
  }
  sessions_.CollectBlocks(blocks);
  return pool_.Balances(blocks);
}

void EngineLoop::TakeNews() {
  queue_.Take(new_requests_, commands_, calls_);
  for (QueuedRequest& queued : new_requests_) {
    Enqueue(std::move(queued));
  }
  // What a command finds is a turn between two tokens.
  if (!commands_.empty() || !calls_.empty()) {
    Land();
    RemoveEnded();
  }
  for (const RequestCommand& command : commands_) {
    Apply(command);
  }
  RemoveEnded();
  for (const std::function<void()>& call : calls_) {
    call();
  }
  RemoveEnded();
}

void EngineLoop::Enqueue(QueuedRequest queued) {
  const WaitingKey key = {-queued.request.priority, queued.arrival};
  Waiting waiting{.queued = std::move(queued)};
  if (waiting.queued.request.turn.has_value()) {
    absl::StatusOr<SessionEntry*> entry = BeginTurn(waiting.queued.request);
    if (!entry.ok()) {
      FailWaiting(waiting, entry.status());
      return;
    }
    waiting.entry = *entry;
  }
  waiting_.emplace(key, std::move(waiting));
}

void EngineLoop::Apply(const RequestCommand& command) {
  const bool is_cancel = command.kind == RequestCommand::Kind::kCancel;
  const bool pauses = command.kind == RequestCommand::Kind::kPause;
  for (auto& sequence : running_) {
    if (sequence == nullptr || sequence->request_id() != command.request_id) {
      continue;
    }
    if (is_cancel) {
      FailRunning(sequence, absl::CancelledError("the request was cancelled"));
    } else {
      sequence->set_paused(pauses);
    }
    return;
  }
  const auto found = std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& entry) {
    return entry.second.queued.request.request_id == command.request_id;
  });
  if (found == waiting_.end()) {
    return;  // it has just ended
  }
  if (is_cancel) {
    FailWaiting(found->second, absl::CancelledError("the request was cancelled while queued"));
    waiting_.erase(found);
  } else {
    found->second.queued.is_paused = pauses;
  }
}

void EngineLoop::Expire(absl::Time now) {
  if (now >= queue_.drain_deadline()) {
    EndAll(absl::UnavailableError("the server is shutting down"));
    return;
  }
  const auto is_late_too = [now](const auto& sequence) {
    return now >= sequence->request().deadline;
  };
  if (std::any_of(running_.begin(), running_.end(), is_late_too)) {
    Land();
    RemoveEnded();
  }
  for (auto& sequence : running_) {
    if (now >= sequence->request().deadline) {
      const int64_t num_tokens = sequence->usage().completion_tokens;
      FailRunning(sequence,
                  absl::DeadlineExceededError(
                      fmt::format("the deadline passed after {} tokens", num_tokens)));
    }
  }
  RemoveEnded();
  std::erase_if(waiting_, [&](const auto& entry) {
    const QueuedRequest& queued = entry.second.queued;
    const bool is_late = now >= WaitingDeadline(queued);
    if (is_late) {
      FailWaiting(entry.second, QueueTimeout(queued, now));
    }
    return is_late;
  });
}

// In the order of urgency, and nobody overtakes: a request that needs much memory gets its turn.
void EngineLoop::Admit(absl::Time now) {
  auto num_active = std::count_if(running_.begin(), running_.end(), [](const auto& sequence) {
    return !sequence->is_paused();
  });
  while (!waiting_.empty() && num_active < parts_.scheduler.max_batch) {
    Waiting& head = waiting_.begin()->second;
    if (!HasRoomFor(GrowthOf(head))) {
      if (!running_.empty()) {
        return;
      }
      // Nothing will end and make room: only idle sessions hold memory.
      FailWaiting(head,
                  absl::ResourceExhaustedError(
                      fmt::format("sessions hold {} of {} blocks of KV memory, the request may "
                                  "need {}: close some, or give more memory",
                                  NumUsedBlocks(),
                                  pool_.num_blocks(),
                                  GrowthOf(head))));
      waiting_.erase(waiting_.begin());
      continue;
    }
    Sequence::Setup setup;
    setup.now = now;
    setup.eos_token_ids = parts_.eos_token_ids;
    setup.entry = head.entry;
    setup.shape = parts_.shape;
    setup.pool = &pool_;
    running_.push_back(std::make_unique<Sequence>(std::move(head.queued), setup));
    num_active += running_.back()->is_paused() ? 0 : 1;
    waiting_.erase(waiting_.begin());
    queue_.OnAdmitted();
    Tell(running_.back()->request_id(), running_.back()->Accepted());
  }
}

int64_t EngineLoop::GrowthOf(const Waiting& waiting) const {
  const int64_t num_positions = MaxPositions(waiting.queued.request);
  if (waiting.entry == nullptr) {
    return WorstCaseBlocks(parts_.shape, num_positions);
  }
  const Session& session = *waiting.entry->session;
  const int64_t most = WorstCaseBlocks(session.shape(), waiting.entry->position() + num_positions);
  return std::max<int64_t>(most - session.num_blocks(), 0);
}

// Where contexts slide, a shared block may leave one window and stay in another, so that each owner
// counts in full.
int64_t EngineLoop::NumUsedBlocks() const {
  return parts_.shape.slides ? pool_.num_references() : pool_.num_blocks() - pool_.num_free();
}

bool EngineLoop::HasRoomFor(int64_t num_blocks) const {
  int64_t most = NumUsedBlocks() + num_blocks;
  for (const auto& sequence : running_) {
    most += sequence->Growth();
  }
  return most <= pool_.num_blocks();
}

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
  bool is_anyone_decoding = false;
  for (const auto& sequence : running_) {
    views_.push_back(sequence->View());
    is_anyone_decoding =
        is_anyone_decoding || (views_.back().prompt_left == 0 && !sequence->is_paused());
  }
  Flight& flight = flying_ == flights_.data() ? flights_[1] : flights_[0];
  PlanStep(views_,
           {.max_sequences = parts_.scheduler.max_batch,
            .max_prefill_rows = prefill_budget_.Rows(is_anyone_decoding)},
           flight.plan);
  if (flight.plan.empty()) {
    return false;
  }
  flight.launched = std::chrono::steady_clock::now();
  flight.batch.Build(flight.plan, running_, ++counters_.steps);
  const absl::Status status = runner_.Launch(flight.batch);
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
  const auto landed = std::chrono::steady_clock::now();
  if (flight.plan.back().is_prefill) {
    const std::chrono::duration<double, std::milli> took =
        landed - std::max(flight.launched, last_landing_);
    prefill_budget_.Learn(static_cast<int64_t>(flight.batch.token_ids.size()), took.count());
  }
  last_landing_ = landed;
  Retire(flight, parts_.clock());
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
    bool is_sound = true;
    if (rows.is_prefill) {
      counters_.prompt_tokens += rows.num_rows;
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
    ScoredToken* sampled = rows.is_sampled ? &flight.batch.results[next_result++] : nullptr;
    if (!is_sound || (sampled != nullptr && sampled->token.token_id == kNoToken)) {
      FailRunning(sequence,
                  absl::InternalError("no token can be chosen: the logits are not finite, or "
                                      "every token is forbidden"));
    } else if (sampled != nullptr) {
      TellToken(sequence, *sampled, now);
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
  const std::optional<FinishReason> reason = sequence->TakeToken(result, now);
  ++counters_.completion_tokens;
  Tell(request_id, SampledTokenEvent{.index = index, .token = std::move(result)});
  if (reason.has_value()) {
    Tell(request_id, sequence->Finish(*reason, now));
    End(sequence);
  }
}

void EngineLoop::Fault(const absl::Status& status) {
  const std::string message = fmt::format("the device failed: {}", status.ToString());
  flying_ = nullptr;
  for (auto& sequence : running_) {
    // What the step wrote is not defined.
    FailRunning(sequence, absl::InternalError(message), OnInterrupt::kRollback);
  }
  RemoveEnded();
  queue_.Close(absl::UnavailableError(message));
  for (const auto& [key, waiting] : waiting_) {
    FailWaiting(waiting, absl::UnavailableError(message));
  }
  waiting_.clear();
  counters_.healthy = false;
}

void EngineLoop::FailRunning(std::unique_ptr<Sequence>& sequence, absl::Status status) {
  const std::optional<SessionTurn>& turn = sequence->request().turn;
  FailRunning(
      sequence, std::move(status), turn.has_value() ? turn->on_interrupt : OnInterrupt::kRollback);
}

void EngineLoop::FailRunning(std::unique_ptr<Sequence>& sequence,
                             absl::Status status,
                             OnInterrupt policy) {
  FailedEvent event{.status = std::move(status), .usage = sequence->usage()};
  if (sequence->entry() != nullptr) {
    event.session_position =
        sequence->Interrupt(policy, sink_.DeliveredTokens(sequence->request_id()));
  }
  Tell(sequence->request_id(), std::move(event));
  End(sequence);
}

void EngineLoop::FailWaiting(const Waiting& waiting, absl::Status status) {
  const GenerateRequest& request = waiting.queued.request;
  FailedEvent event;
  event.status = std::move(status);
  event.usage.prompt_tokens = static_cast<int64_t>(request.prompt.size());
  if (waiting.entry != nullptr) {
    event.session_position = waiting.entry->position();
    sessions_.EndTurn(*waiting.entry, parts_.clock());
  }
  Tell(request.request_id, std::move(event));
  queue_.OnEnded(/*was_running=*/false);
  has_ended_ = true;
}

void EngineLoop::End(std::unique_ptr<Sequence>& sequence) {
  SessionEntry* const entry = sequence->entry();
  sequence.reset();
  if (entry != nullptr) {
    sessions_.EndTurn(*entry, parts_.clock());
  }
  queue_.OnEnded(/*was_running=*/true);
  has_ended_ = true;
}

void EngineLoop::RemoveEnded() {
  std::erase(running_, nullptr);
}

template <typename Event>
void EngineLoop::Tell(uint64_t request_id, Event event) {
  events_.push_back({request_id, std::move(event)});
}

void EngineLoop::Publish() {
  // First: who hears of an event finds its consequences in load().
  UpdateLoad();
  if (!events_.empty()) {
    sink_.Publish(events_);
    events_.clear();
  }
  if (has_ended_) {
    queue_.OnPublished();
    has_ended_ = false;
  }
  for (const std::function<void()>& reply : replies_) {
    reply();
  }
  replies_.clear();
}

void EngineLoop::UpdateLoad() {
  counters_.running = static_cast<int64_t>(running_.size());
  counters_.sessions = sessions_.size();
  counters_.queued = queue_.num_waiting();
  counters_.device_blocks_free = pool_.num_free();
  const absl::MutexLock lock(&load_mutex_);
  load_ = counters_;
}

}  // namespace ringserve
