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

int64_t SteadyNs() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
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
      pool_(parts.device_blocks, parts.host_blocks, parts.local_blocks),
      memory_(*parts.runner.backend,
              {parts.runner.kv_pool, parts.host_pool, parts.runner.kv},
              {parts.runner.local_kv_pool, parts.local_host_pool, parts.runner.local_kv},
              pool_),
      prefixes_(parts.shape.block_size, pool_),
      residency_(pool_, memory_),
      sessions_(
          {parts.shape,
           parts.sessions,
           [this](const BlockCounts& num_blocks) {
             return may_take_room_ && HasRoomFor(num_blocks);
           },
           parts.make_session_id,
           parts.clock,
           [this](const std::string& owner, const HeldMemory& held) { sink_.Charge(owner, held); },
           [this](SessionEntry& entry) {
             disk_.Forget(entry);
             FailCallsOf(entry, absl::NotFoundError("the session was closed"));
           }},
          pool_,
          memory_),
      disk_(parts.disk, parts_.snapshot_key, DiskHooks(), sessions_, memory_, pool_),
      runner_(parts.runner),
      runs_ahead_(parts.runner.backend->info().runs_ahead),
      prefill_budget_(parts.scheduler.prefill_size, parts.scheduler.max_token_gap_ms) {
  counters_.max_batch = parts.scheduler.max_batch;
  counters_.max_queue = parts.scheduler.max_queue;
  counters_.device_blocks = parts.device_blocks;
  counters_.host_blocks = parts.host_blocks;
  for (size_t i = 0; i < (runs_ahead_ ? flights_.size() : 1); ++i) {
    flights_[i].batch.hidden.reserve(static_cast<size_t>(parts.hidden_floats));
  }
  if (parts.disk.files != nullptr) {
    disk_.AddFound(parts.disk.files->Scan(
        parts_.snapshot_key,
        [this](int64_t buffer_size) { return sessions_.ShapeOf(buffer_size); },
        counters_.refused_files));
  }
  UpdateLoad();
}

// The step under way writes its results into a flight.
EngineLoop::~EngineLoop() {
  if (flying_ != nullptr) {
    runner_.Await().IgnoreError();  // nobody is left to be told
  }
}

EngineLoad EngineLoop::load() const {
  const absl::MutexLock lock(&load_mutex_);
  return load_;
}

absl::Duration EngineLoop::step_age() const {
  const int64_t began = step_began_ns_;
  return began == 0 ? absl::ZeroDuration() : absl::Nanoseconds(SteadyNs() - began);
}

bool EngineLoop::Step() {
  const auto started = std::chrono::steady_clock::now();
  step_began_ns_ = SteadyNs();
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
  step_began_ns_ = 0;
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
  for (const WaitingCall& call : calls_) {
    next = std::min(next, call.options.deadline);
  }
  const bool is_idle = waiting_.empty() && running_.empty() && calls_.empty();
  return is_idle ? next : std::min(next, queue_.drain_deadline());
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
  FailCalls([](const WaitingCall&) { return true; }, status);
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
  queue_.Take(news_);
  for (const std::function<void()>& release : news_.releases) {
    release();
  }
  for (QueuedRequest& queued : news_.requests) {
    Enqueue(std::move(queued));
  }
  // What a command or a call finds is a turn between two tokens.
  if (!news_.commands.empty() || !news_.calls.empty()) {
    Land();
    RemoveEnded();
  }
  for (const RequestCommand& command : news_.commands) {
    Apply(command);
  }
  RemoveEnded();
  for (const std::function<void()>& call : news_.calls) {
    call();
  }
  RemoveEnded();
}

void EngineLoop::Apply(const RequestCommand& command) {
  const bool is_cancel = command.kind == RequestCommand::Kind::kCancel;
  const bool pauses = command.kind == RequestCommand::Kind::kPause;
  for (auto& sequence : running_) {
    if (sequence == nullptr || sequence->request_id() != command.request_id) {
      continue;
    }
    if (is_cancel) {
      FailRunning(sequence, Cancelled());
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

bool EngineLoop::HasCancel(uint64_t request_id) const {
  const bool is_taken =
      std::any_of(news_.commands.begin(), news_.commands.end(), [&](const RequestCommand& command) {
        return command.request_id == request_id && command.kind == RequestCommand::Kind::kCancel;
      });
  return is_taken || queue_.HasCancel(request_id);
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
  FailCalls([now](const WaitingCall& call) { return now >= call.options.deadline; },
            absl::DeadlineExceededError("the deadline passed while the call waited"));
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
  FailCalls([](const WaitingCall&) { return true; }, absl::UnavailableError(message));
  disk_.StopSpilling();
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

void EngineLoop::FailNoToken(std::unique_ptr<Sequence>& sequence) {
  FailRunning(sequence,
              absl::InternalError(
                  sequence->is_reading() ? "nothing can be told: the model's results are not finite"
                  : sequence->ForbidsTokens()
                      ? "no token can be chosen: the model's logits are not finite, "
                        "or every token is forbidden"
                      : "no token can be chosen: the model's logits are not finite"));
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
  if (parts_.drafter != nullptr) {
    parts_.drafter->Forget(sequence->request_id());
  }
  if (entry == nullptr) {
    sink_.Charge(
        sequence->request().owner,
        sessions_.HeldFor(sequence->session(), parts_.clock() - sequence->admitted_time()));
  }
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
  counters_.waiting_calls = static_cast<int64_t>(calls_.size());
  counters_.disk = disk_.counts();
  counters_.queued = queue_.num_waiting();
  counters_.device_blocks_free = pool_.num_free_device();
  counters_.host_blocks_free = pool_.num_free_host();
  if (parts_.host_blocks == 0) {
    counters_.device_blocks_free += pool_.num_reclaimable();
  }
  counters_.spilled_blocks = residency_.num_spilled();
  counters_.restored_blocks = residency_.num_restored();
  counters_.prefix_blocks = prefixes_.num_blocks();
  const absl::MutexLock lock(&load_mutex_);
  load_ = counters_;
}

}  // namespace ringserve
