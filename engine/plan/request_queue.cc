#include "engine/plan/request_queue.h"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace ringserve {
namespace {

// The request that a sibling of `request` is.
GenerateRequest RequestOfSibling(const GenerateRequest& request, Sibling sibling) {
  GenerateRequest own;
  own.request_id = sibling.request_id;
  own.owner = request.owner;
  if (request.embedding.has_value()) {
    own.prompt = std::move(sibling.prompt);
  } else {
    own.prompt = request.prompt;
  }
  own.sampling = request.sampling;
  own.sampling.seed = sibling.seed;
  own.stopping.max_tokens = request.stopping.max_tokens;
  own.stopping.min_tokens = request.stopping.min_tokens;
  own.stopping.ignore_eos = request.stopping.ignore_eos;
  own.stopping.stop_token_ids = request.stopping.stop_token_ids;
  own.stopping.stop_condition = std::move(sibling.stop_condition);
  own.constraint = std::move(sibling.constraint);
  own.continuation = std::move(sibling.continuation);
  own.embedding = request.embedding;
  own.output.num_logprobs = request.output.num_logprobs;
  own.priority = request.priority;
  own.deadline = request.deadline;
  own.queue_timeout = request.queue_timeout;
  own.speculate = request.speculate;
  return own;
}

// What the request has several of, as its caller names it.
std::string Parts(const GenerateRequest& request, int64_t count) {
  if (request.embedding.has_value()) {
    return fmt::format("inputs: {}", count);
  }
  return request.continuation.empty() ? fmt::format("n: {} completions", count)
                                      : fmt::format("continuations: {}", count);
}

}  // namespace

absl::Status RequestQueue::CheckRoom(int64_t count) const {
  RETURN_IF_ERROR(closed_);
  if (num_waiting_ + num_running_ + count > max_waiting_ + std::max(max_running_, num_running_)) {
    return absl::ResourceExhaustedError(
        fmt::format("the queue is full: {} requests wait, scheduler.max_queue is {}",
                    num_waiting_,
                    max_waiting_));
  }
  return absl::OkStatus();
}

absl::Status RequestQueue::CheckPush() const {
  const absl::MutexLock lock(&mutex_);
  return CheckRoom(1);
}

absl::Status RequestQueue::Push(GenerateRequest request, absl::Time now) {
  const absl::MutexLock lock(&mutex_);
  const auto count = static_cast<int64_t>(request.siblings.size()) + 1;
  if (closed_.ok() && count > max_waiting_ + max_running_) {
    return absl::InvalidArgumentError(
        fmt::format("{} are more than {}, what scheduler.max_queue and max_batch hold together",
                    Parts(request, count),
                    max_waiting_ + max_running_));
  }
  RETURN_IF_ERROR(CheckRoom(count));
  num_waiting_ += count;
  has_news_ = true;
  std::vector<Sibling> siblings = std::exchange(request.siblings, {});
  const size_t first = news_.requests.size();
  news_.requests.push_back(
      {.request = std::move(request), .arrival_time = now, .arrival = next_arrival_++});
  for (Sibling& sibling : siblings) {
    const GenerateRequest& shared = news_.requests[first].request;
    const auto leader =
        shared.embedding.has_value() ? std::nullopt : std::optional<uint64_t>(shared.request_id);
    GenerateRequest own = RequestOfSibling(shared, std::move(sibling));
    news_.requests.push_back({.request = std::move(own),
                              .arrival_time = now,
                              .arrival = next_arrival_++,
                              .leader = leader});
  }
  return absl::OkStatus();
}

void RequestQueue::Command(RequestCommand command) {
  const absl::MutexLock lock(&mutex_);
  has_news_ = true;
  news_.commands.push_back(command);
}

absl::Status RequestQueue::Post(std::function<void()> call) {
  const absl::MutexLock lock(&mutex_);
  if (!closed_.ok()) {
    return closed_;
  }
  if (news_.calls.size() >= kMaxCalls) {
    return absl::ResourceExhaustedError(fmt::format("{} calls wait for the engine", kMaxCalls));
  }
  has_news_ = true;
  news_.calls.push_back(std::move(call));
  return absl::OkStatus();
}

void RequestQueue::PostOwn(std::function<void()> call) {
  const absl::MutexLock lock(&mutex_);
  has_news_ = true;
  news_.calls.push_back(std::move(call));
}

void RequestQueue::PostRelease(std::function<void()> call) {
  const absl::MutexLock lock(&mutex_);
  has_news_ = true;
  news_.releases.push_back(std::move(call));
}

void RequestQueue::AwaitNews() {
  const absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&has_news_));
}

void RequestQueue::Close(absl::Status status) {
  const absl::MutexLock lock(&mutex_);
  if (closed_.ok()) {
    closed_ = std::move(status);
  }
}

void RequestQueue::SetDrainDeadline(absl::Time deadline) {
  const absl::MutexLock lock(&mutex_);
  has_news_ = true;
  drain_deadline_ = std::min(drain_deadline_, deadline);
}

void RequestQueue::Stop() {
  const absl::MutexLock lock(&mutex_);
  is_stopped_ = true;
}

void RequestQueue::AwaitIdle() {
  const absl::MutexLock lock(&mutex_);
  const auto is_idle = [this] {
    mutex_.AssertHeld();
    return num_waiting_ + num_running_ + num_untold_ == 0;
  };
  mutex_.Await(absl::Condition(&is_idle));
}

bool RequestQueue::HasCancel(uint64_t request_id) const {
  const absl::MutexLock lock(&mutex_);
  return std::any_of(
      news_.commands.begin(), news_.commands.end(), [&](const RequestCommand& command) {
        return command.request_id == request_id && command.kind == RequestCommand::Kind::kCancel;
      });
}

int64_t RequestQueue::num_waiting() const {
  const absl::MutexLock lock(&mutex_);
  return num_waiting_;
}

void RequestQueue::Take(News& news) {
  news.releases.clear();
  news.requests.clear();
  news.commands.clear();
  news.calls.clear();
  const absl::MutexLock lock(&mutex_);
  if (has_news_) {
    std::swap(news, news_);
    has_news_ = false;
  }
}

void RequestQueue::OnAdmitted() {
  const absl::MutexLock lock(&mutex_);
  --num_waiting_;
  ++num_running_;
}

void RequestQueue::OnEnded(bool was_running) {
  const absl::MutexLock lock(&mutex_);
  --(was_running ? num_running_ : num_waiting_);
  ++num_untold_;
}

void RequestQueue::OnPublished() {
  const absl::MutexLock lock(&mutex_);
  num_untold_ = 0;
}

void RequestQueue::WaitForWork(absl::Time deadline) {
  const absl::MutexLock lock(&mutex_);
  const auto has_work = [this] {
    mutex_.AssertHeld();
    return has_news_ || is_stopped_;
  };
  mutex_.AwaitWithDeadline(absl::Condition(&has_work), deadline);
}

bool RequestQueue::is_stopped() const {
  const absl::MutexLock lock(&mutex_);
  return is_stopped_;
}

absl::Time RequestQueue::drain_deadline() const {
  const absl::MutexLock lock(&mutex_);
  return drain_deadline_;
}

}  // namespace ringserve
