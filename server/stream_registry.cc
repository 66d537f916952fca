#include "server/stream_registry.h"

#include <utility>
#include <vector>

#include <fmt/format.h>

#include "engine/base/check.h"
#include "server/generate_stream.h"

namespace ringserve {
namespace {

// Request ids have no NUL in them.
std::string Key(const std::string& owner, const std::string& request_id) {
  return fmt::format("{}{}{}", request_id, '\0', owner);
}

}  // namespace

StreamRegistry::StreamRegistry(const Options& options)
    : options_(options), janitor_([this] { Run(); }) {}

StreamRegistry::~StreamRegistry() {
  {
    absl::MutexLock lock(&mutex_);
    RS_CHECK(num_live_ == 0);
    stopping_ = true;
  }
  janitor_.join();
}

absl::Status StreamRegistry::Add(const std::shared_ptr<GenerateStream>& stream) {
  if (stream->resumable() && options_.resume_timeout <= absl::ZeroDuration()) {
    return absl::FailedPreconditionError("resumable: this server keeps no streams");
  }
  absl::MutexLock lock(&mutex_);
  if (closed_) {
    return absl::UnavailableError("the server is draining");
  }
  if (stream->resumable() && num_kept_ >= options_.max_kept) {
    return absl::ResourceExhaustedError(
        fmt::format("resumable: {} streams are kept, the most that this server keeps", num_kept_));
  }
  const std::string key = Key(stream->owner(), stream->request_id());
  if (readings_.contains(key) || !streams_.emplace(key, stream).second) {
    return AlreadyExists(stream->request_id());
  }
  ++num_live_;
  num_kept_ += stream->resumable() ? 1 : 0;
  return absl::OkStatus();
}

std::shared_ptr<GenerateStream> StreamRegistry::Find(const std::string& owner,
                                                     const std::string& request_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = streams_.find(Key(owner, request_id));
  return found == streams_.end() ? nullptr : found->second;
}

absl::Status StreamRegistry::AlreadyExists(const std::string& request_id) {
  return absl::AlreadyExistsError(
      fmt::format("request_id: \"{}\" is that of a request that is live or kept", request_id));
}

bool StreamRegistry::Abort(const std::string& owner, const std::string& request_id) {
  std::shared_ptr<GenerateStream> stream;
  {
    absl::MutexLock lock(&mutex_);
    const std::string key = Key(owner, request_id);
    if (const auto reading = readings_.find(key); reading != readings_.end()) {
      return reading->second->Abort();
    }
    if (const auto found = streams_.find(key); found != streams_.end()) {
      stream = found->second;
    }
  }
  return stream != nullptr && stream->Abort();
}

absl::Status StreamRegistry::AddReading(const std::string& owner,
                                        const std::string& request_id,
                                        NamedReading& reading) {
  absl::MutexLock lock(&mutex_);
  const std::string key = Key(owner, request_id);
  if (streams_.contains(key) || !readings_.emplace(key, &reading).second) {
    return AlreadyExists(request_id);
  }
  return absl::OkStatus();
}

void StreamRegistry::RemoveReading(const std::string& owner, const std::string& request_id) {
  absl::MutexLock lock(&mutex_);
  readings_.erase(Key(owner, request_id));
}

void StreamRegistry::Ended(const std::shared_ptr<GenerateStream>& stream, bool keep) {
  absl::MutexLock lock(&mutex_);
  if (!keep || closed_) {
    Erase(*stream);
  }
  --num_live_;
}

void StreamRegistry::Schedule(const std::shared_ptr<GenerateStream>& stream, uint64_t epoch) {
  absl::MutexLock lock(&mutex_);
  expiries_.push_back(
      {.time = absl::Now() + options_.resume_timeout, .stream = stream, .epoch = epoch});
}

void StreamRegistry::Forget(const GenerateStream& stream) {
  absl::MutexLock lock(&mutex_);
  Erase(stream);
}

void StreamRegistry::Erase(const GenerateStream& stream) {
  const auto found = streams_.find(Key(stream.owner(), stream.request_id()));
  if (found != streams_.end() && found->second.get() == &stream) {
    num_kept_ -= stream.resumable() ? 1 : 0;
    streams_.erase(found);
  }
}

void StreamRegistry::Shutdown() {
  std::vector<std::shared_ptr<GenerateStream>> streams;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    for (const auto& [key, stream] : streams_) {
      streams.push_back(stream);
    }
  }
  for (const auto& stream : streams) {
    stream->CancelIfUnread();
  }
  streams.clear();
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &StreamRegistry::IsQuiet));
  streams_.clear();
  num_kept_ = 0;
}

int64_t StreamRegistry::num_kept() const {
  absl::MutexLock lock(&mutex_);
  return num_kept_;
}

void StreamRegistry::Run() {
  for (;;) {
    Expiry due;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &StreamRegistry::HasExpiries));
      if (!stopping_) {
        // Nothing earlier comes: the wait is the same for all.
        mutex_.AwaitWithDeadline(absl::Condition(&stopping_), expiries_.front().time);
      }
      if (stopping_) {
        return;
      }
      due = std::move(expiries_.front());
      expiries_.pop_front();
    }
    if (const auto stream = due.stream.lock()) {
      stream->Expire(due.epoch);
    }
  }
}

}  // namespace ringserve
