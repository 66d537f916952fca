// Keeps what the engine said, by request, and holds it to the order that request.h promises.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include "engine/base/check.h"
#include "engine/request.h"

namespace ringserve {

struct Transcript {
  std::optional<AcceptedEvent> accepted;
  std::vector<ProgressEvent> progress;
  std::vector<ScoredToken> prompt;  // from token 1 on
  std::vector<ScoredToken> tokens;
  std::vector<ContextNoticeEvent> notices;
  std::vector<float> embedding;
  std::optional<FinishedEvent> finished;
  std::optional<FailedEvent> failed;

  bool has_ended() const { return finished.has_value() || failed.has_value(); }

  std::vector<int32_t> token_ids() const {
    std::vector<int32_t> ids;
    for (const ScoredToken& token : tokens) {
      ids.push_back(token.token.token_id);
    }
    return ids;
  }
};

class FakeSink final : public EventSink {
 public:
  void Publish(std::span<TokenEvent> events) override {
    const absl::MutexLock lock(&mutex_);
    RS_CHECK(!events.empty());
    for (TokenEvent& event : events) {
      Transcript& transcript = transcripts_[event.request_id];
      RS_CHECK(!transcript.has_ended());
      std::visit([&](auto& what) { Take(transcript, what); }, event.event);
      if (transcript.has_ended()) {
        ended_.push_back(event.request_id);
      }
    }
  }

  int64_t DeliveredTokens(uint64_t request_id) override {
    const absl::MutexLock lock(&mutex_);
    const auto found = delivered_.find(request_id);
    return found == delivered_.end() ? std::numeric_limits<int64_t>::max() : found->second;
  }

  // The client of that request was sent no more than so many tokens.
  void SetDelivered(uint64_t request_id, int64_t num_tokens) {
    const absl::MutexLock lock(&mutex_);
    delivered_[request_id] = num_tokens;
  }

  // A copy; empty if the request was never named. Any thread.
  Transcript transcript(uint64_t request_id) const {
    const absl::MutexLock lock(&mutex_);
    const auto found = transcripts_.find(request_id);
    return found == transcripts_.end() ? Transcript{} : found->second;
  }

  // True if it has its place in the batch.
  bool is_accepted(uint64_t request_id) const {
    const absl::MutexLock lock(&mutex_);
    const auto found = transcripts_.find(request_id);
    return found != transcripts_.end() && found->second.accepted.has_value();
  }

  bool has_ended(uint64_t request_id) const {
    const absl::MutexLock lock(&mutex_);
    const auto found = transcripts_.find(request_id);
    return found != transcripts_.end() && found->second.has_ended();
  }

  // Removes it, to keep long runs small.
  Transcript Take(uint64_t request_id) {
    const absl::MutexLock lock(&mutex_);
    Transcript transcript = std::move(transcripts_[request_id]);
    transcripts_.erase(request_id);
    return transcript;
  }

  // Who has ended since the last call, in order.
  std::vector<uint64_t> TakeEnded() {
    const absl::MutexLock lock(&mutex_);
    return std::exchange(ended_, {});
  }

  void AwaitEnd(uint64_t request_id) {
    const absl::MutexLock lock(&mutex_);
    const auto has_ended = [&] {
      mutex_.AssertHeld();
      const auto found = transcripts_.find(request_id);
      return found != transcripts_.end() && found->second.has_ended();
    };
    mutex_.Await(absl::Condition(&has_ended));
  }

  void AwaitTokens(uint64_t request_id, size_t count) {
    const absl::MutexLock lock(&mutex_);
    const auto has_tokens = [&] {
      mutex_.AssertHeld();
      const auto found = transcripts_.find(request_id);
      return found != transcripts_.end() && found->second.tokens.size() >= count;
    };
    mutex_.Await(absl::Condition(&has_tokens));
  }

 private:
  static void Take(Transcript& transcript, AcceptedEvent& event) {
    RS_CHECK(!transcript.accepted.has_value());
    transcript.accepted = event;
  }

  static void Take(Transcript& transcript, ProgressEvent& event) {
    RS_CHECK(transcript.accepted.has_value());
    RS_CHECK(transcript.tokens.empty());
    transcript.progress.push_back(event);
  }

  static void Take(Transcript& transcript, PromptLogprobsEvent& event) {
    RS_CHECK(transcript.accepted.has_value());
    RS_CHECK(transcript.tokens.empty());
    RS_CHECK(event.first_index == static_cast<int64_t>(transcript.prompt.size()) + 1);
    for (ScoredToken& token : event.tokens) {
      transcript.prompt.push_back(std::move(token));
    }
  }

  static void Take(Transcript& transcript, SampledTokenEvent& event) {
    RS_CHECK(transcript.accepted.has_value());
    RS_CHECK(event.index == static_cast<int64_t>(transcript.tokens.size()));
    transcript.tokens.push_back(std::move(event.token));
  }

  static void Take(Transcript& transcript, EmbeddingEvent& event) {
    RS_CHECK(transcript.accepted.has_value());
    RS_CHECK(transcript.tokens.empty() && transcript.embedding.empty());
    transcript.embedding = std::move(event.values);
  }

  static void Take(Transcript& transcript, ContextNoticeEvent& event) {
    RS_CHECK(transcript.accepted.has_value());
    RS_CHECK(event.evicted_tokens > 0);
    transcript.notices.push_back(event);
  }

  static void Take(Transcript& transcript, FinishedEvent& event) {
    RS_CHECK(transcript.accepted.has_value());
    transcript.finished = event;
  }

  static void Take(Transcript& transcript, FailedEvent& event) { transcript.failed = event; }

  mutable absl::Mutex mutex_;
  std::map<uint64_t, Transcript> transcripts_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, int64_t> delivered_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> ended_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ringserve
