// Who may begin: in the order of urgency, if what it may come to need fits beside the others' worst
// case, with as much of its text as is known already.
#include <algorithm>
#include <limits>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "engine/engine_loop.h"

namespace ringserve {

absl::Status EngineLoop::Submit(GenerateRequest request) {
  if (!request.turn.has_value()) {
    RETURN_IF_ERROR(CheckFits(WorstCaseBlocks(parts_.shape, MaxPositions(request, parts_.shape))));
  }
  return queue_.Push(std::move(request), parts_.clock());
}

absl::Status EngineLoop::CheckFits(const BlockCounts& num_blocks) const {
  const BlockCounts device = {parts_.device_blocks, parts_.local_blocks.num_device};
  if (num_blocks.FitsIn(device)) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      fmt::format("the request may need {} blocks of KV memory, the pool has {}",
                  num_blocks.total(),
                  device.total()));
}

void EngineLoop::Enqueue(QueuedRequest queued) {
  const WaitingKey key = {-queued.request.priority, queued.arrival};
  last_arrival_ = queued.arrival;
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

absl::StatusOr<SessionEntry*> EngineLoop::BeginTurn(const GenerateRequest& request) {
  ASSIGN_OR_RETURN(SessionEntry* const entry, sessions_.BeginTurn(request));
  const BlockCounts kept = {0, entry->num_blocks().local};
  const absl::Status fits = CheckFits(
      WorstCaseBlocks(entry->shape(), entry->position() + MaxPositions(request, entry->shape())) +
      kept);
  if (!fits.ok()) {
    sessions_.EndTurn(*entry, parts_.clock());
    return fits;
  }
  disk_.Keep(*entry);
  return entry;
}

EngineLoop::WaitingIterator EngineLoop::MostUrgent() {
  const auto begin = std::find_if(waiting_.begin(), waiting_.end(), [this](const auto& entry) {
    return !IsOnItsWay(entry.second);
  });
  if (begin == waiting_.end() || begin->second.num_overtaken >= kMaxOvertaken) {
    return begin;
  }
  const int32_t first = begin->first.first;
  num_running_of_.clear();
  for (const auto& sequence : running_) {
    ++num_running_of_[sequence->request().owner];
  }
  auto best = waiting_.end();
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (auto at = begin; at != waiting_.end() && at->first.first == first; ++at) {
    if (IsOnItsWay(at->second)) {
      continue;
    }
    const auto found = num_running_of_.find(at->second.queued.request.owner);
    const int64_t num_running = found == num_running_of_.end() ? 0 : found->second;
    if (num_running < fewest) {
      best = at;
      fewest = num_running;
    }
    if (fewest == 0) {
      break;
    }
  }
  return best;
}

// In the order of urgency, calls by arrival among them, and nobody overtakes: a request that needs
// much memory gets its turn.
void EngineLoop::Admit(absl::Time now) {
  is_short_ = false;
  auto num_active = std::count_if(
      running_.begin(), running_.end(), [](const auto& sequence) { return sequence->is_active(); });
  for (;;) {
    const size_t num_running = running_.size();
    const auto call = FirstCall();
    const auto request = num_active < parts_.scheduler.max_batch ? MostUrgent() : waiting_.end();
    if (call == calls_.end() && request == waiting_.end()) {
      return;  // who is left waits for a place in the batch, or for the disk
    }
    const bool is_call = call != calls_.end() && (request == waiting_.end() ||
                                                  call->arrival < request->second.queued.arrival);
    if (is_call ? !ServeCall(call) : !AdmitRequest(request, now)) {
      is_short_ = true;
      LetLeadersGo();
      return;
    }
    num_active += running_.size() > num_running && !running_.back()->is_paused() ? 1 : 0;
  }
}

bool EngineLoop::AdmitRequest(WaitingIterator most_urgent, absl::Time now) {
  Waiting& head = most_urgent->second;
  const bool is_stored = head.entry != nullptr && head.entry->residence == Residence::kDisk;
  prefix_.clear();
  if (!is_stored) {
    FindPrefix(head, prefix_);
  }
  const BlockCounts spared = {static_cast<int64_t>(prefix_.size()), 0};
  if (!HasRoomFor(GrowthOf(head) - spared)) {
    for (const int32_t block : prefix_) {
      pool_.Release(block);
    }
    if (disk_.MakeRoom(WaitingSessions(head.entry)) || MayComeFree(GrowthOf(head))) {
      return false;
    }
    // Whatever ends, idle sessions hold what it needs.
    FailWaiting(head,
                absl::ResourceExhaustedError(
                    fmt::format("sessions hold {} of {} blocks of KV memory, the request may "
                                "need {}: close some, or give more memory",
                                NumUsedBlocks().total(),
                                pool_.counts().total(),
                                GrowthOf(head).total())));
    waiting_.erase(most_urgent);
    return true;
  }
  if (is_stored) {
    disk_.Restore(*head.entry);
    return true;
  }
  if (head.entry != nullptr) {
    disk_.Keep(*head.entry);
  }
  Sequence::Setup setup;
  setup.now = now;
  setup.eos_token_ids = parts_.eos_token_ids;
  setup.entry = head.entry;
  setup.shape = parts_.shape;
  setup.start_token_id = parts_.decoder_start_token_id;
  setup.pool = &pool_;
  setup.max_draft = parts_.drafter == nullptr ? 0 : parts_.max_draft;
  setup.prefix = prefix_;
  if (head.entry != nullptr) {
    std::vector<BlockCopy> copies;
    head.entry->session->BeginTurn(copies);
    for (const BlockCopy& copy : copies) {
      copied_.Update(memory_.CopyBlock(copy.from, copy.to));
    }
  }
  running_.push_back(std::make_unique<Sequence>(std::move(head.queued), setup));
  if (most_urgent != waiting_.begin()) {
    ++waiting_.begin()->second.num_overtaken;
  }
  waiting_.erase(most_urgent);
  queue_.OnAdmitted();
  FindLeaders();
  counters_.cached_tokens += running_.back()->usage().cached_tokens;
  Tell(running_.back()->request_id(), running_.back()->Accepted());
  return true;
}

BlockCounts EngineLoop::GrowthOf(const Waiting& waiting) const {
  const int64_t num_positions = MaxPositions(waiting.queued.request, parts_.shape);
  if (waiting.entry == nullptr) {
    BlockCounts most = WorstCaseBlocks(parts_.shape, num_positions);
    // A sibling refers to what its leader has read; what is still to be read may come to be read by
    // itself.
    const std::optional<uint64_t> leader_id = waiting.queued.leader;
    const Sequence* const leader = leader_id.has_value() ? FindRunning(*leader_id) : nullptr;
    // Past a local window it may be too late to take anything over.
    const bool shares = leader != nullptr && !parts_.shape.slides && !parts_.shape.has_local() &&
                        leader->HasReadShared();
    if (shares) {
      most.global -= NumShared(waiting.queued.request, parts_.shape);
    }
    return most;
  }
  const SessionEntry& entry = *waiting.entry;
  // The turn keeps the local ring as it is now until it ends.
  const BlockCounts most = WorstCaseBlocks(entry.shape(), entry.position() + num_positions) +
                           BlockCounts{0, entry.num_blocks().local};
  const BlockCounts held = entry.num_held();
  return {std::max<int64_t>(most.global - held.global, 0),
          std::max<int64_t>(most.local - held.local, 0)};
}

// Where contexts slide, a shared block may leave one window and stay in another, so that each owner
// counts in full.
BlockCounts EngineLoop::NumUsedBlocks() const {
  return {parts_.shape.slides ? pool_.num_references() : pool_.num_owned(),
          pool_.num_references(BlockGroup::kLocal)};
}

// False if requests that end give back too little: the rest is held by sessions, which stay where
// they are. A session that is being exported or imported may go to the disk afterwards.
bool EngineLoop::MayComeFree(const BlockCounts& num_blocks) const {
  BlockCounts num_held = NumUsedBlocks() + disk_.num_reserved();
  for (const auto& sequence : running_) {
    if (sequence->entry() == nullptr) {
      num_held -= sequence->session().num_blocks();
    } else {
      num_held.local -= sequence->session().num_kept();
    }
  }
  const bool will_end = !running_.empty() || (sessions_.has_transfers() && disk_.MayTakeMore()) ||
                        std::any_of(waiting_.begin(), waiting_.end(), [this](const auto& entry) {
                          return IsOnItsWay(entry.second);
                        });
  return will_end && (disk_.MayTakeMore() || (num_held + num_blocks).FitsIn(pool_.counts()));
}

bool EngineLoop::HasRoomFor(const BlockCounts& num_blocks) const {
  BlockCounts most = NumUsedBlocks() + disk_.num_reserved() + num_blocks;
  for (const auto& sequence : running_) {
    most += sequence->Growth();
  }
  return most.FitsIn(pool_.counts());
}

void EngineLoop::FindPrefix(const Waiting& waiting, std::vector<int32_t>& blocks) {
  const GenerateRequest& request = waiting.queued.request;
  if (!parts_.sessions.share_prefixes || !Sequence::MayBeginShared(request, waiting.entry)) {
    return;
  }
  const std::optional<uint64_t> leader = waiting.queued.leader;
  if (leader.has_value() && FindRunning(*leader) != nullptr) {
    return;  // it takes over all of the prompt
  }
  const SessionShape& shape = waiting.entry != nullptr ? waiting.entry->shape() : parts_.shape;
  if (shape.sink_size > 0 || shape.has_local()) {
    return;  // sinks are not in the blocks, nor is what local layers see
  }
  // The last token is always read, for its logits; and no window may have moved over the blocks.
  const size_t length = std::min(request.prompt.size() - 1, static_cast<size_t>(shape.buffer_size));
  prefixes_.Find(ScopeOf(request.owner), std::span(request.prompt).first(length), blocks);
}

void EngineLoop::SharePrefix(const Sequence& sequence) {
  // What a turn makes can be taken back until it is committed.
  const SessionEntry* const entry = sequence.entry();
  const bool is_settled = entry == nullptr || sequence.has_finished();
  // And what a client brought along may not be what its tokens make.
  const bool is_ours = entry == nullptr || !entry->is_foreign;
  if (!parts_.sessions.share_prefixes || !is_settled || !is_ours) {
    return;
  }
  const Session& session = sequence.session();
  const int64_t block_size = session.shape().block_size;
  std::vector<int32_t> blocks;
  session.CollectBeginning(blocks);
  const int64_t num_known = sequence.known_position() / block_size;
  blocks.resize(std::min(blocks.size(), static_cast<size_t>(num_known)));
  std::vector<int32_t> token_ids;
  const int64_t end = static_cast<int64_t>(blocks.size()) * block_size;
  for (int64_t position = 0; position < end; ++position) {
    token_ids.push_back(session.TokenAt(position));
  }
  prefixes_.Insert(ScopeOf(sequence.request().owner), token_ids, blocks);
}

std::string EngineLoop::ScopeOf(const std::string& owner) const {
  const auto& groups = parts_.sessions.prefix_groups;
  for (size_t i = 0; i < groups.size(); ++i) {
    if (std::find(groups[i].begin(), groups[i].end(), owner) != groups[i].end()) {
      return fmt::format("group {}", i);
    }
  }
  return fmt::format("owner {}", owner);
}

}  // namespace ringserve
