// What one stream has to say and has not said yet: turns engine events into GenerateEvents, and
// merges those of a completion that the reader has not taken.
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
  bool echo = false;      // with the first completion
  int32_t num_completions = 1;
  int32_t first_prompt_token = 0;  // for echo: the engine tells the tokens that have a logprob
};

// Not thread-safe. `tokenizer` must outlive it.
class EventBuffer {
 public:
  EventBuffer(const Tokenizer& tokenizer, StreamOptions options);

  void set_request_id(const std::string& request_id) { request_id_ = request_id; }

  // An event of completion `index`, in the order in which the engine publishes. Nothing may follow
  // a completion's final event.
  void Push(TokenEvent&& event, int32_t index = 0);

  bool empty() const { return pending_.empty(); }

  // Of what is pending, about.
  int64_t pending_bytes() const { return pending_bytes_; }

  // The next event of the stream, numbered, or null; valid until the next call of anything here.
  const v1::GenerateEvent* Take();

  // The number of the event that Take would give next.
  uint64_t next_sequence() const { return next_sequence_; }

  // Tokens of the first completion in the events that were taken.
  int64_t taken_tokens() const { return taken_tokens_; }

  // A completion has failed: what the others still say is not told.
  bool has_failed() const { return !failure_.ok(); }

  // Once every completion's final event was pushed: how the stream ends after the pending events.
  // Not OK if any failed: as the first that did.
  const std::optional<absl::Status>& final_status() const { return final_status_; }

  // Forgets what is pending: nobody will read it.
  void Drop();

 private:
  struct Pending {
    v1::GenerateEvent event;
    int64_t bytes = 0;  // about
  };

  struct Completion {
    Completion(int32_t index_in_request, const Tokenizer& tokenizer, const StreamOptions& options)
        : index(index_in_request),
          decoder(tokenizer, options.stop_strings, !options.include_special_tokens) {}

    const int32_t index;
    StreamDecoder decoder;
    int64_t num_tokens = 0;      // so far
    int64_t newest_serial = -1;  // of its newest event, pending or not; counts all that were made
    bool first_prompt_token_told = false;
  };

  // Null if the completion has nothing pending.
  Pending* Newest(const Completion& completion);
  Pending& Append(Completion& completion);
  void Grow(Pending& pending, int64_t bytes);
  Pending& CurrentDelta(Completion& completion);
  void OnAccepted(Completion& completion, const AcceptedEvent& event);
  void OnProgress(Completion& completion, const ProgressEvent& event);
  void OnPrompt(Completion& completion, const PromptLogprobsEvent& event);
  void OnToken(Completion& completion, const SampledTokenEvent& event);
  void OnNotice(Completion& completion, const ContextNoticeEvent& event);
  void OnFinished(Completion& completion, const FinishedEvent& event);
  void OnEnded();
  void TellFirstPromptToken(Completion& completion);

  const Tokenizer& tokenizer_;
  const StreamOptions options_;
  std::deque<Completion> completions_;
  std::string request_id_;
  std::deque<Pending> pending_;
  v1::GenerateEvent taken_;
  int64_t pending_bytes_ = 0;
  int64_t first_serial_ = 0;  // of pending_.front()
  int64_t taken_tokens_ = 0;
  uint64_t next_sequence_ = 0;
  int32_t num_ended_ = 0;
  absl::Status failure_;
  std::optional<absl::Status> final_status_;
};

}  // namespace ringserve
