// What one stream has to say and has not said yet: turns engine events into GenerateEvents, and
// merges those that the reader has not taken.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/request.h"
#include "engine/text/stream_decoder.h"
#include "engine/text/tokenizer.h"
#include "ringserve/v1/inference.pb.h"

namespace ringserve {

// How a stream wants to be told, beside what the engine needs to know.
struct StreamOptions {
  std::string model;
  std::vector<std::string> stop_strings;
  std::vector<int32_t> end_token_ids;  // sorted; not part of the text
  bool include_special_tokens = false;
  bool logprobs = false;  // of the completion
  bool echo = false;
  int32_t first_prompt_token = 0;  // for echo: the engine tells the tokens that have a logprob
};

// Not thread-safe. `tokenizer` must outlive it.
class EventBuffer {
 public:
  EventBuffer(const Tokenizer& tokenizer, StreamOptions options);

  void set_request_id(const std::string& request_id) { request_id_ = request_id; }

  // In the order in which the engine publishes. Nothing may follow the final event.
  void Push(TokenEvent&& event);

  bool empty() const { return pending_.empty(); }

  // Of what is pending, about.
  int64_t pending_bytes() const { return pending_bytes_; }

  // The next event of the stream, numbered, or null; valid until the next call of anything here.
  const v1::GenerateEvent* Take();

  // The number of the event that Take would give next.
  uint64_t next_sequence() const { return next_sequence_; }

  // Tokens of the completion in the events that were taken.
  int64_t taken_tokens() const { return taken_tokens_; }

  // Once the final event was pushed: how the stream ends after the pending events.
  const std::optional<absl::Status>& final_status() const { return final_status_; }

  // Forgets what is pending: nobody will read it.
  void Drop();

 private:
  struct Pending {
    v1::GenerateEvent event;
    int64_t bytes = 0;  // about
  };

  v1::GenerateEvent& Append();
  void Grow(int64_t bytes);
  v1::Delta& CurrentDelta(int64_t first_index);
  void OnAccepted(const AcceptedEvent& event);
  void OnProgress(const ProgressEvent& event);
  void OnPrompt(const PromptLogprobsEvent& event);
  void OnToken(const SampledTokenEvent& event);
  void OnNotice(const ContextNoticeEvent& event);
  void OnFinished(const FinishedEvent& event);
  void TellFirstPromptToken();
  void Score(const ScoredToken& token, v1::ScoredToken& out);

  const Tokenizer& tokenizer_;
  const StreamOptions options_;
  StreamDecoder decoder_;
  std::string request_id_;
  std::deque<Pending> pending_;
  v1::GenerateEvent taken_;
  int64_t pending_bytes_ = 0;
  int64_t num_tokens_ = 0;  // of the completion so far
  int64_t taken_tokens_ = 0;
  uint64_t next_sequence_ = 0;
  bool first_prompt_token_told_ = false;
  std::optional<absl::Status> final_status_;
};

}  // namespace ringserve
