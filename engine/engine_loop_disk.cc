// Sessions in files, as the loop sees them: who waits for one, and what becomes of those that stay
// in memory when the engine ends.
#include <utility>

#include "engine/engine_loop.h"

namespace ringserve {

DiskTier::Hooks EngineLoop::DiskHooks() {
  return {.clock = parts_.clock,
          .post = [this](std::function<void()> call) { queue_.PostOwn(std::move(call)); },
          .on_fault = [this](const absl::Status& status) { copied_.Update(status); },
          .on_back = [](SessionEntry& entry) { Answer(entry, absl::OkStatus()); },
          .on_unread = [this](SessionEntry& entry,
                              const absl::Status& status) { FailWhoWaits(entry, status); },
          .on_lost =
              [this](SessionEntry& entry, const absl::Status& status) {
                FailWhoWaits(entry, status);
                sessions_.Erase(entry);
              }};
}

bool EngineLoop::IsOnItsWay(const Waiting& waiting) const {
  if (waiting.entry == nullptr || waiting.entry->residence == Residence::kMemory) {
    return false;
  }
  return waiting.entry->residence == Residence::kMoving || disk_.is_restoring();
}

std::vector<SessionEntry*> EngineLoop::WaitingSessions(const Waiting& but) const {
  std::vector<SessionEntry*> entries;
  for (auto at = waiting_.rbegin(); at != waiting_.rend(); ++at) {
    SessionEntry* const entry = at->second.entry;
    if (entry != nullptr && entry != but.entry && entry->residence == Residence::kMemory) {
      entries.push_back(entry);
    }
  }
  return entries;
}

void EngineLoop::Answer(SessionEntry& entry, const absl::Status& status) {
  // A call may want the session back again.
  for (const auto& call : std::exchange(entry.when_back, {})) {
    call(status);
  }
}

void EngineLoop::BringBackWanted() {
  while (!wanted_back_.empty() && !disk_.is_restoring()) {
    SessionEntry* const entry = sessions_.FindById(wanted_back_.front());
    const bool is_wanted = entry != nullptr && !entry->when_back.empty();
    if (is_wanted && entry->residence == Residence::kMoving) {
      return;  // its file is being named
    }
    if (is_wanted && entry->residence == Residence::kDisk) {
      if (HasRoomFor(entry->num_blocks())) {
        disk_.Restore(*entry);
      } else if (disk_.MakeRoom()) {
        return;
      } else {
        Answer(*entry,
               absl::ResourceExhaustedError(
                   "there is no KV memory for the session, which is on disk: close some"));
      }
    }
    wanted_back_.pop_front();
  }
}

void EngineLoop::FailWhoWaits(SessionEntry& entry, const absl::Status& status) {
  Answer(entry, status);
  for (auto at = waiting_.begin(); at != waiting_.end(); ++at) {
    if (at->second.entry == &entry) {
      FailWaiting(at->second, status);
      waiting_.erase(at);
      break;
    }
  }
}

void EngineLoop::SaveSessions() {
  if (parts_.disk.files == nullptr || !counters_.healthy) {
    return;
  }
  const auto settle = [this] {
    while (disk_.is_spilling() || disk_.is_restoring()) {
      queue_.AwaitNews();
      TakeNews();
    }
  };
  settle();
  std::vector<SessionEntry*> entries = sessions_.LeastRecentlyUsed();
  while (!entries.empty()) {
    disk_.Spill(*entries.back());
    entries.pop_back();
    settle();
  }
  UpdateLoad();
}

}  // namespace ringserve
