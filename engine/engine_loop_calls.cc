// Calls on sessions that need blocks. One that finds too little memory waits as a request does, as
// long as more can come: who came first is served first, be it a call or a request, and nobody
// overtakes who waits for memory.
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "engine/base/check.h"
#include "engine/engine_loop.h"

namespace ringserve {

void EngineLoop::CancelCall(uint64_t call_id) {
  RS_CHECK(call_id != 0);
  queue_.PostOwn([this, call_id] {
    FailCalls([call_id](const WaitingCall& call) { return call.options.call_id == call_id; },
              absl::CancelledError("the call was cancelled"));
  });
}

void EngineLoop::BeginCall(WaitingCall call) {
  call.arrival = last_arrival_;
  const SessionEntry* const away = AwayFor(call);
  if (away == nullptr && Attempt(call, /*may_take_room=*/!is_short_).total() == 0) {
    return;
  }
  if (const absl::Status waits = CheckMayWait(call); !waits.ok()) {
    call.fail(waits);
    return;
  }
  calls_.push_back(std::move(call));
}

absl::Status EngineLoop::CheckMayWait(const WaitingCall& call) const {
  if (std::cmp_greater_equal(calls_.size(), parts_.scheduler.max_queue)) {
    return absl::ResourceExhaustedError(
        fmt::format("{} calls wait for memory or the disk, as many as scheduler.max_queue allows",
                    calls_.size()));
  }
  if (!call.is_import) {
    return absl::OkStatus();
  }
  const auto num_imports = std::count_if(
      calls_.begin(), calls_.end(), [](const WaitingCall& other) { return other.is_import; });
  return sessions_.CheckTransfers(static_cast<size_t>(num_imports));
}

SessionEntry* EngineLoop::AwayFor(const WaitingCall& call) const {
  SessionEntry* const entry =
      call.session_id.empty() ? nullptr : sessions_.Find(call.owner, call.session_id);
  const bool is_away =
      entry != nullptr && !entry->is_busy() && entry->residence != Residence::kMemory;
  return is_away ? entry : nullptr;
}

std::list<WaitingCall>::iterator EngineLoop::FirstCall() {
  return std::find_if(calls_.begin(), calls_.end(), [this](const WaitingCall& call) {
    const SessionEntry* const away = AwayFor(call);
    return away == nullptr || !IsOnItsWay(*away);
  });
}

BlockCounts EngineLoop::Attempt(const WaitingCall& call, bool may_take_room) {
  may_take_room_ = may_take_room;
  const BlockCounts num_lacking = call.attempt();
  const SessionEntry* const entry =
      call.session_id.empty() ? nullptr : sessions_.Find(call.owner, call.session_id);
  if (num_lacking.total() == 0 && entry != nullptr) {
    disk_.Keep(*entry);
  }
  return num_lacking;
}

bool EngineLoop::ServeCall(std::list<WaitingCall>::iterator at) {
  BlockCounts num_lacking;
  if (SessionEntry* const away = AwayFor(*at); away != nullptr) {
    if (HasRoomFor(away->num_blocks())) {
      disk_.Restore(*away);
      return true;
    }
    num_lacking = away->num_blocks();
  } else {
    num_lacking = Attempt(*at, /*may_take_room=*/true);
  }
  if (num_lacking.total() == 0) {
    calls_.erase(at);
    return true;
  }
  // A fork's source, or what is to be rolled back, would only have to come back.
  const SessionEntry* const kept =
      at->session_id.empty() ? nullptr : sessions_.Find(at->owner, at->session_id);
  const bool may_come =
      num_lacking.FitsIn(pool_.counts()) &&
      (disk_.MakeRoom(WaitingSessions(nullptr), kept) || MayComeFree(num_lacking));
  if (may_come) {
    return false;
  }
  at->fail(absl::ResourceExhaustedError(
      fmt::format("sessions hold {} of {} blocks of KV memory, the call needs {} more: close "
                  "some, or give more memory",
                  NumUsedBlocks().total(),
                  pool_.counts().total(),
                  num_lacking.total())));
  calls_.erase(at);
  return true;
}

// Those that need no room need not wait for their turn.
void EngineLoop::RetryCalls(const SessionEntry& entry) {
  std::erase_if(calls_, [&](const WaitingCall& call) {
    return call.session_id == entry.id && AwayFor(call) == nullptr &&
           Attempt(call, /*may_take_room=*/false).total() == 0;
  });
}

void EngineLoop::FailCalls(const std::function<bool(const WaitingCall&)>& is_one,
                           const absl::Status& status) {
  std::erase_if(calls_, [&](const WaitingCall& call) {
    const bool fails = is_one(call);
    if (fails) {
      call.fail(status);
    }
    return fails;
  });
}

void EngineLoop::FailCallsOf(const SessionEntry& entry, const absl::Status& status) {
  // A stranger's call was answered at once.
  FailCalls([&entry](const WaitingCall& call) { return call.session_id == entry.id; }, status);
}

}  // namespace ringserve
