#include "engine/sequence.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "engine/base/check.h"

namespace ringserve {
namespace {

bool NeedsHistory(const SamplingParams& sampling) {
  return sampling.repetition_penalty != 1.0F || sampling.presence_penalty != 0.0F ||
         sampling.frequency_penalty != 0.0F;
}

// Positions before the text: those of a source, in whole blocks.
int64_t SourceRows(const GenerateRequest& request, const SessionShape& shape) {
  return shape.has_source
             ? RoundUp<int64_t>(static_cast<int64_t>(request.prompt.size()), shape.block_size)
             : 0;
}

// The most tokens that the completion can have.
int64_t MaxTokens(const GenerateRequest& request) {
  if (request.embedding.has_value()) {
    return 1;  // none, which takes as little memory
  }
  return request.continuation.empty() ? request.stopping.max_tokens
                                      : static_cast<int64_t>(request.continuation.size());
}

}  // namespace

int64_t MaxPositions(const GenerateRequest& request, const SessionShape& shape) {
  // A text behind a source begins with one token that was not made.
  const int64_t first = shape.has_source ? SourceRows(request, shape) + 1
                                         : static_cast<int64_t>(request.prompt.size());
  return first + MaxTokens(request) - 1;
}

int64_t NumShared(const GenerateRequest& request, const SessionShape& shape) {
  const int64_t tokens = shape.has_source ? SourceRows(request, shape)
                                          : static_cast<int64_t>(request.prompt.size()) - 1;
  return tokens / shape.block_size;
}

Sequence::Sequence(QueuedRequest queued, const Setup& setup)
    : request_(std::move(queued.request)),
      arrival_(queued.arrival),
      arrival_time_(queued.arrival_time),
      admitted_time_(setup.now),
      entry_(setup.entry),
      start_(entry_ != nullptr ? entry_->session->position() : SourceRows(request_, setup.shape)),
      stop_ids_(request_.stopping.stop_token_ids),
      rank_(queued.arrival),
      is_paused_(queued.is_paused),
      leader_(queued.leader) {
  if (entry_ == nullptr) {
    own_session_.emplace(setup.shape, MaxPositions(request_, setup.shape), *setup.pool);
  }
  if (!request_.stopping.ignore_eos) {
    stop_ids_.insert(stop_ids_.end(), setup.eos_token_ids.begin(), setup.eos_token_ids.end());
  }
  std::sort(stop_ids_.begin(), stop_ids_.end());
  if (entry_ != nullptr) {
    pending_ = std::exchange(entry_->pending_token, std::nullopt);
  }
  rows_.reserve(request_.prompt.size() + request_.continuation.size() + 1);
  if (pending_.has_value()) {
    rows_.push_back(*pending_);
  }
  if (setup.shape.has_source) {
    rows_.push_back(setup.start_token_id);
  } else {
    rows_.insert(rows_.end(), request_.prompt.begin(), request_.prompt.end());
  }
  if (!request_.continuation.empty()) {
    rows_.insert(rows_.end(), request_.continuation.begin(), request_.continuation.end() - 1);
    num_given_ = static_cast<int64_t>(request_.continuation.size()) - 1;
    num_behind_shared_ = num_given_ + 1;
  }
  if (NeedsHistory(request_.sampling)) {
    history_.emplace().AddPrompt(TextBefore(start_));
    history_->AddPrompt(rows_);
  }
  if (setup.max_draft > 0 && request_.speculate && !is_reading()) {
    speculation_.emplace(setup.max_draft);
    speculation_->text.Add(TextBefore(RecentText::kMinTokens));
    speculation_->text.Add(rows_);
  }
  usage_.prompt_tokens = static_cast<int64_t>(request_.prompt.size());
  const size_t num_shared = setup.prefix.size() * static_cast<size_t>(session().shape().block_size);
  if (num_shared > 0) {
    mutable_session().BeginWith(std::span(rows_).first(num_shared), setup.prefix);
  }
  usage_.cached_tokens = session().position();
}

// Of a session, the text that its next row sees: what lies further back is not kept.
std::vector<int32_t> Sequence::TextBefore(int64_t max_tokens) const {
  std::vector<int32_t> before;
  for (int64_t position = std::max(
           {session().window_first(), WindowFirst(session().shape(), start_), start_ - max_tokens});
       entry_ != nullptr && position < start_;
       ++position) {
    before.push_back(session().TokenAt(position));
  }
  return before;
}

int64_t Sequence::known_position() const {
  return std::min(session().position(),
                  start_ + static_cast<int64_t>(rows_.size()) + usage_.completion_tokens);
}

bool Sequence::MayBeginShared(const GenerateRequest& request, const SessionEntry* entry) {
  const bool wants_all_rows =
      request.output.prompt_logprobs ||
      (request.embedding.has_value() && request.embedding->pooling == Pooling::kMean);
  return (entry == nullptr || entry->position() == 0) && !wants_all_rows;
}

BlockCounts Sequence::Growth() const {
  const BlockCounts most =
      WorstCaseBlocks(session().shape(),
                      (entry_ != nullptr ? start_ : 0) + (pending_.has_value() ? 1 : 0) +
                          MaxPositions(request_, session().shape()));
  const BlockCounts held = session().num_blocks();
  return {std::max<int64_t>(most.global - held.global, 0),
          std::max<int64_t>(most.local - held.local, 0)};
}

void Sequence::TakePrompt(const Sequence& leader, std::vector<BlockCopy>& copies) {
  RS_CHECK(session().position() == 0);
  RS_CHECK(leader.HasReadShared());
  // The last token is read by each, for its own logits.
  const bool has_source = session().shape().has_source;
  usage_.cached_tokens = usage_.prompt_tokens - (has_source ? 0 : 1);
  const int64_t num_shared = has_source ? start_ : usage_.cached_tokens;
  if (num_shared > 0) {
    own_session_.emplace(
        *leader.own_session_, num_shared, MaxPositions(request_, session().shape()), copies);
  }
  // The windows that moved meanwhile, in one notice.
  evicted_now_ = session().window_first();
  usage_.evicted_tokens = evicted_now_;
  leader_.reset();
}

int64_t Sequence::prompt_left() const {
  return std::max<int64_t>(start_ + static_cast<int64_t>(rows_.size()) - session().position(), 0);
}

int64_t Sequence::source_left() const {
  return session().shape().has_source && session().position() == 0 ? start_ : 0;
}

int64_t Sequence::NumPromptTokens(const ScheduledRows& rows, int64_t first_position) const {
  if (session().shape().has_source) {
    return rows.num_source_rows > 0 ? usage_.prompt_tokens : 0;
  }
  return num_given_ == 0
             ? rows.num_rows
             : NumPrefilled(first_position + rows.num_rows) - NumPrefilled(first_position);
}

int64_t Sequence::NumPrefilled(int64_t position) const {
  const int64_t left = start_ + static_cast<int64_t>(rows_.size()) - num_given_ - position;
  return usage_.prompt_tokens - std::clamp<int64_t>(left, 0, usage_.prompt_tokens);
}

SequenceView Sequence::View() const {
  return {
      .prompt_left = prompt_left() - source_left(),
      .position = session().position(),
      .num_keys = session().position() - session().window_first(),
      .source_left = source_left(),
      .max_rows = is_held_ ? std::min(session().MaxRows(), prompt_left() - 1) : session().MaxRows(),
      .arrival = arrival_,
      .last_step = last_step_,
      .priority = request_.priority,
      .num_drafts = NumDrafts(),
      .is_paused = !is_active() || leader_.has_value() || (num_expected_ > 0 && !MayRunAhead())};
}

// A row whose token is not known yet can be followed by the next one unless that one cannot exist,
// or could not be undone.
bool Sequence::MayRunAhead() const {
  return !is_reading() && usage_.completion_tokens + num_expected_ < request_.stopping.max_tokens &&
         session().MaxRows() > 0 && !session().MovesWindow();
}

void Sequence::ExpectToken(int32_t place) {
  ++num_expected_;
  next_token_ = ~place;
}

bool Sequence::ForbidsTokens() const {
  return !request_.sampling.logit_bias.empty() ||
         usage_.completion_tokens < request_.stopping.min_tokens;
}

bool Sequence::NeedsEveryToken() const {
  return speculation_.has_value() || history_.has_value() || request_.constraint != nullptr ||
         !request_.sampling.logit_bias.empty() || request_.stopping.min_tokens > 0 ||
         request_.output.num_logprobs > 0;
}

std::span<const int32_t> Sequence::Advance(const ScheduledRows& rows, int64_t step) {
  last_step_ = step;
  const auto num_rows = static_cast<size_t>(rows.num_rows);
  if (rows.num_source_rows > 0) {
    mutable_session().AppendSource(request_.prompt);
  }
  std::span<const int32_t> token_ids;
  if (rows.is_prefill) {
    token_ids = std::span<const int32_t>(rows_).subspan(
        static_cast<size_t>(session().position() - start_), num_rows);
  } else {
    decode_ids_.assign(1, next_token_);
    num_unverified_ = rows.num_rows - 1;
    if (num_unverified_ > 0) {
      const std::span<const int32_t> draft = std::span(speculation_->draft).first(num_rows - 1);
      decode_ids_.insert(decode_ids_.end(), draft.begin(), draft.end());
      usage_.drafted_tokens += num_unverified_;
    }
    token_ids = decode_ids_;
  }
  const int64_t evicted = mutable_session().Append(
      token_ids, rows.is_prefill ? Session::Phase::kPrefill : Session::Phase::kDecode);
  evicted_now_ += evicted;
  usage_.evicted_tokens += evicted;
  return token_ids;
}

BlockCounts Sequence::NewBlocks(int64_t max_rows) const {
  const int64_t num_rows =
      source_left() > 0 ? prompt_left()
                        : std::min(prompt_left() > 0 ? std::min(prompt_left(), max_rows)
                                                     : 1 + std::min<int64_t>(NumDrafts(), max_rows),
                                   session().MaxRows());
  const int64_t block_size = session().shape().block_size;
  const int64_t end = session().position() + num_rows;
  const bool takes_sinks = session().shape().sink_size > 0 && session().position() == 0;
  const int64_t num_new = CeilDiv(end, block_size) - CeilDiv(session().position(), block_size);
  return {num_new + (takes_sinks ? 1 : 0), session().shape().has_local() ? num_new : 0};
}

std::optional<ContextNoticeEvent> Sequence::TakeNotice() {
  if (evicted_now_ == 0) {
    return std::nullopt;
  }
  return ContextNoticeEvent{.evicted_tokens = std::exchange(evicted_now_, 0),
                            .first_position = session().window_first()};
}

SampleRow Sequence::RowToSample(int32_t num_drafts) const {
  SampleRow row;
  row.position = session().position() - session().text_start() - num_unverified_ + num_drafts;
  row.params = &request_.sampling;
  row.history = history_.has_value() ? &*history_ : nullptr;
  if (num_drafts > 0) {
    row.drafted = std::span(decode_ids_).subspan(1, static_cast<size_t>(num_drafts));
  }
  if (usage_.completion_tokens + num_drafts < request_.stopping.min_tokens) {
    row.banned = stop_ids_;
  }
  if (request_.constraint != nullptr) {
    const Allowance allowance =
        num_drafts > 0 ? speculation_->allowances[static_cast<size_t>(num_drafts) - 1]
                       : Allowance{request_.constraint->Allowed(), request_.constraint->MayEnd()};
    row.allowed = allowance.token_ids;
    if (allowance.may_end) {
      row.also_allowed = stop_ids_;
    }
  }
  row.num_logprobs = std::max(request_.output.num_logprobs, 0);
  return row;
}

std::optional<FinishReason> Sequence::TakeToken(const ScoredToken& token, absl::Time now) {
  RS_DCHECK(prompt_left() == 0);
  const int32_t token_id = token.token.token_id;
  if (usage_.completion_tokens == 0) {
    first_token_time_ = now;
  }
  ++usage_.completion_tokens;
  RS_DCHECK(num_expected_ >= 1);
  --num_expected_;
  if (speculation_.has_value()) {
    NoteToken(token_id);
  }
  if (num_unverified_ > 0) {
    VerifyDraft(token_id);
  } else if (num_expected_ > 0) {
    mutable_session().SetToken(session().position() - 1, token_id);
  }
  if (num_expected_ == 0) {
    next_token_ = token_id;
  }
  const std::optional<FinishReason> reason = ReasonToEnd(token, num_expected_ > 0);
  if (reason.has_value() && num_expected_ > 0) {
    UndoRows(token_id);
  }
  return reason;
}

std::optional<FinishReason> Sequence::ReasonToEnd(const ScoredToken& token, bool is_followed) {
  const int32_t token_id = token.token.token_id;
  digest_.Add(token_id, token.token.logprob);
  if (history_.has_value()) {
    history_->AddOutput(token_id);
  }
  if (IsStopToken(token_id)) {
    return FinishReason::kStopToken;
  }
  if (request_.constraint != nullptr) {
    RS_CHECK(request_.constraint->Take(token_id));
  }
  StopCondition* condition = request_.stopping.stop_condition.get();
  if (condition != nullptr) {
    const std::optional<int32_t> stop_index = condition->OnToken(token_id);
    if (stop_index.has_value()) {
      stop_index_ = *stop_index;
      return FinishReason::kStopString;
    }
  }
  if (usage_.completion_tokens >= request_.stopping.max_tokens) {
    return FinishReason::kMaxTokens;
  }
  if (!is_followed && session().MaxRows() == 0) {
    return FinishReason::kContextFull;
  }
  return std::nullopt;
}

bool Sequence::IsStopToken(int32_t token_id) const {
  return std::binary_search(stop_ids_.begin(), stop_ids_.end(), token_id);
}

}  // namespace ringserve
