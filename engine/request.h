// What goes into the engine and what comes out: requests, events, and the sink that takes them.
// Plain data; knows neither the network nor text encodings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <absl/time/time.h>

#include "engine/base/status.h"

namespace ringserve {

// How the next token is chosen from the logits, in the order of the fields. Ranges are checked by
// CheckGenerateRequest.
struct SamplingParams {
  // Token id, and what is added to its logit: [-100, 100] or -inf. Each id once, at most
  // kMaxLogitBiases.
  std::vector<std::pair<int32_t, float>> logit_bias;
  float repetition_penalty =
      1.0F;                        // (0, 10]; over prompt and output: positive logits /, negative *
  float presence_penalty = 0.0F;   // [-2, 2]; subtracted once from tokens in the output
  float frequency_penalty = 0.0F;  // [-2, 2]; subtracted per occurrence in the output
  float temperature = 1.0F;  // [0, 100]; 0 is greedy (the lowest id wins a tie), the rest unused
  int32_t top_k = 0;         // [0, vocab_size]; 0 keeps all
  float top_p = 1.0F;        // (0, 1]; the smallest set of most likely tokens with that mass
  float min_p = 0.0F;        // [0, 1]; drops tokens below min_p times the most likely one
  uint64_t seed = 0;         // noise is a function of (seed, position, token id) alone
};

// Decides from the tokens generated so far whether the turn ends, for conditions that need text
// (stop strings). Made by the caller; used and destroyed on the engine thread.
class StopCondition {
 public:
  virtual ~StopCondition() = default;
  // Called once per generated token, in order. The index of the stop string that is now complete in
  // the text, or none.
  virtual std::optional<int32_t> OnToken(int32_t token_id) = 0;
};

// Which tokens may come next, given those before: what a text must be like (a schema, a regular
// expression). Made by the caller, one for each completion; used and destroyed on the engine
// thread.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // A bit for each token id, of 64 per word, that may come next; tokens that end the text are not
  // among them. Stays as it is as long as this object.
  virtual std::span<const uint64_t> Allowed() = 0;
  // True if the text may end here. Where it may not, some token is allowed.
  virtual bool MayEnd() = 0;
  // Goes on by a token. False, and nothing changes, if it is not allowed.
  virtual bool Take(int32_t token_id) = 0;
  // Goes back by so many tokens that were taken.
  virtual void Undo(int64_t num_tokens) = 0;
};

struct StoppingParams {
  int32_t max_tokens = 16;  // >= 1
  int32_t min_tokens = 0;   // [0, max_tokens]; until then eos and stop token ids cannot be sampled
  bool ignore_eos = false;  // the model's eos ids are ordinary tokens
  std::vector<int32_t> stop_token_ids;            // at most kMaxStopTokenIds
  std::unique_ptr<StopCondition> stop_condition;  // null: none
};

struct OutputParams {
  // -1: the chosen token's goes into the digest only; 0: it is told; k: so are the k most likely
  // ones, at most kMaxLogprobs.
  int32_t num_logprobs = -1;
  bool prompt_logprobs = false;  // logprobs of the prompt's tokens (echo)
};

// How the hidden states of a prompt's rows become one vector.
enum class Pooling {
  kLastToken,  // that of the last token, which has seen all others
  kMean,       // the mean over all tokens
};

struct EmbeddingParams {
  Pooling pooling = Pooling::kLastToken;
  bool normalize = false;  // divide by the Euclidean norm (a vector of zeros stays as it is)
};

// What stays of a session's turn that does not finish: it was cancelled, its deadline passed, its
// reader left, or it failed.
enum class OnInterrupt {
  kRollback,  // nothing: the session is as it was before the turn
  // The prompt and the tokens that the client was sent (EventSink::DeliveredTokens); nothing if it
  // was sent none.
  kKeepDelivered,
  kKeepAll,  // everything that was computed; of a prompt that was not read to its end, the part
             // read
};

// A request that continues a session: its prompt is appended, and what it makes is committed when
// it finishes.
//
// Refused with a FailedEvent and nothing else: NOT_FOUND (no such session of this owner), ABORTED
// (another turn is queued or running, or expected_position is not the session's position),
// INVALID_ARGUMENT (the prompt does not fit into what is left of the context).
//
// Where the window moved during the turn, an earlier position may be lost (rollback_floor): then a
// turn keeps what was delivered, and at least up to the floor, whatever on_interrupt says.
// FailedEvent::session_position tells what was kept.
struct SessionTurn {
  std::string session_id;
  std::optional<int64_t> expected_position;  // >= 0
  OnInterrupt on_interrupt = OnInterrupt::kRollback;
};

// A further completion of a request's prompt: in all else a request like it, with an id, events and
// an end of its own. The prompt is read once; the others then refer to its blocks, and their
// usage.cached_tokens says so.
struct Sibling {
  uint64_t request_id = 0;
  uint64_t seed = 0;
  std::unique_ptr<StopCondition> stop_condition;  // null: none
  std::unique_ptr<TokenConstraint> constraint;    // there if the request's is
  std::vector<int32_t> continuation;              // there if the request's is
  std::vector<int32_t> prompt;  // of an embedding, which shares none: its own; else empty
};

struct GenerateRequest {
  uint64_t request_id = 0;  // unique among live requests; chosen by the caller
  // Who asks, as the front door authenticated it; at most kMaxOwnerLength bytes. Sessions belong to
  // it, and beginnings of texts are shared within its scope.
  std::string owner;
  std::optional<SessionTurn> turn;  // none: the request stands alone
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  StoppingParams stopping;
  OutputParams output;
  std::unique_ptr<TokenConstraint> constraint;  // null: any text
  // Not empty: the completion, which is read instead of chosen. Each of its tokens is told as if it
  // had been sampled, special ones too; sampling, stopping and constraint have no say. The request
  // ends only when its siblings have taken over the prompt, unless memory is short.
  std::vector<int32_t> continuation;
  // Set: there is no completion. The prompt is read, and what comes out is one EmbeddingEvent.
  // Beside it continuation, sampling, stopping, output and constraint are unused.
  std::optional<EmbeddingParams> embedding;
  int32_t priority = 0;                          // higher runs first; [-100, 100]
  absl::Time deadline = absl::InfiniteFuture();  // holds while queued and at every step
  absl::Duration queue_timeout = absl::InfiniteDuration();
  // May guess its next tokens and verify them in one step, where the config says so. The answer is
  // the same either way.
  bool speculate = true;
  std::vector<Sibling> siblings;  // at most kMaxSiblings; none of a session's turn
};

struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0;  // natural log of the model's own distribution, before any sampling parameter
};

// A token and what the model thought of it.
struct ScoredToken {
  TokenLogprob token;
  std::vector<TokenLogprob> alternatives;  // most likely first, ties by lower id
};

enum class FinishReason {
  kStopToken,  // an eos or stop token id was sampled; it is the last token and not part of the text
  kStopString,  // stop_condition said so
  kMaxTokens,
  kContextFull,  // the context reached buffer_size and overflow is "refuse"
  kRead,         // what was given was read; nothing was to be chosen
};

struct Usage {
  int64_t prompt_tokens = 0;  // of the request's own prompt
  // Tokens of the context that were not computed for this request: what the session held before its
  // turn, or the whole blocks at the beginning of the prompt that another text of the same scope
  // begins with. (The last token of an answer is read with the next prompt.)
  int64_t cached_tokens = 0;
  int64_t reprefilled_tokens = 0;  // computed a second time; stays 0
  int64_t evicted_tokens = 0;      // dropped from the window so far
  int64_t completion_tokens = 0;
  int64_t drafted_tokens = 0;   // guessed, and given a row to be verified by
  int64_t accepted_tokens = 0;  // of these, what was sampled there
};

struct Timings {
  absl::Duration queued;
  absl::Duration prefill;  // admission to first token
  absl::Duration decode;   // first token to the end
};

// Events of one request, in this order: Accepted; Progress, PromptLogprobs and ContextNotice mixed;
// SampledToken and ContextNotice mixed, or one Embedding; then exactly one of Finished and Failed,
// after which the engine never names the request again. A request that fails before it has a place
// is told nothing but Failed.
struct AcceptedEvent {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  absl::Duration queued;
};

struct ProgressEvent {  // after each prefill chunk but the last
  int64_t prefilled_tokens = 0;
  int64_t prompt_tokens = 0;
};

struct PromptLogprobsEvent {  // tokens [first_index, first_index + size) of the prompt; token 0 has
                              // none
  int64_t first_index = 1;
  std::vector<ScoredToken> tokens;
};

struct SampledTokenEvent {
  int64_t index = 0;  // of the completion, from 0
  ScoredToken token;
};

struct EmbeddingEvent {
  std::vector<float> values;  // [hidden_dim], finite
};

struct ContextNoticeEvent {    // the window moved
  int64_t evicted_tokens = 0;  // by this move
  int64_t first_position = 0;  // of the window after it; sinks lie before
};

struct FinishedEvent {
  FinishReason reason = FinishReason::kMaxTokens;
  int32_t stop_index = -1;  // which stop string
  // Of a request with a constraint: whether the whole text meets it, or was cut off before.
  std::optional<bool> constraint_met;
  Usage usage;
  Timings timings;
  int64_t session_position = 0;  // tokens of the text, all committed
  uint64_t replay_digest = 0;  // over the completion's token ids and the raw bits of their logprobs
};

struct FailedEvent {
  // CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED (idle sessions hold the memory that it needs),
  // UNAVAILABLE, INTERNAL; of a session's turn also those at SessionTurn.
  absl::Status status;
  Usage usage;
  int64_t session_position = 0;  // of a session's turn that was begun: the text that is left
};

struct TokenEvent {
  uint64_t request_id = 0;
  std::variant<AcceptedEvent,
               ProgressEvent,
               PromptLogprobsEvent,
               SampledTokenEvent,
               EmbeddingEvent,
               ContextNoticeEvent,
               FinishedEvent,
               FailedEvent>
      event;
};

// Memory held over time: bytes of keys and values times seconds.
struct HeldMemory {
  double device_byte_seconds = 0;
  double host_byte_seconds = 0;

  void Add(const HeldMemory& more) {
    device_byte_seconds += more.device_byte_seconds;
    host_byte_seconds += more.host_byte_seconds;
  }
};

// Takes what the engine says. Called on the engine thread once per step with all events of the
// step; must not block and must not call the engine back.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void Publish(std::span<TokenEvent> events) = 0;  // the sink may move from the events

  // What a session or request of the owner's has held since it was said last: at the ends of
  // requests, of idle times and of sessions. On the engine thread; must not block.
  virtual void Charge(const std::string& /*owner*/, const HeldMemory& /*held*/) {}

  // How many tokens of the completion the client was sent, asked when a session's turn is
  // interrupted; more than were published means all of them. What was not sent by then must not be
  // sent any more: it is no part of the session. On the engine thread; must not block.
  virtual int64_t DeliveredTokens(uint64_t /*request_id*/) {
    return std::numeric_limits<int64_t>::max();
  }
};

inline constexpr size_t kMaxLogitBiases = 1024;
inline constexpr size_t kMaxStopTokenIds = 1024;
inline constexpr int32_t kMaxLogprobs = 20;
inline constexpr size_t kMaxSiblings = 127;
inline constexpr size_t kMaxOwnerLength = 1024;

struct RequestLimits {
  int32_t vocab_size = 0;
  int64_t max_prompt_tokens = 0;  // INT64_MAX where the context slides
  int64_t max_context_tokens = 0;
  // The prompt is read by an encoder: nothing predicts its tokens, and no session goes on with it.
  bool has_encoder = false;
};

// INVALID_ARGUMENT naming field, value and range, or OK.
absl::Status CheckOwner(const std::string& owner);
// The same; UNIMPLEMENTED for what a model with an encoder cannot be asked.
absl::Status CheckGenerateRequest(const GenerateRequest& request, const RequestLimits& limits);

}  // namespace ringserve
