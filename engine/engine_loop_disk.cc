// Sessions in files, as the loop sees them: who waits for one, and what becomes of those that stay
// in memory when the engine ends.
#include "engine/engine_loop.h"

namespace ringserve {

DiskTier::Hooks EngineLoop::DiskHooks() {
  return {.clock = parts_.clock,
          .post = [this](std::function<void()> call) { queue_.PostOwn(std::move(call)); },
          .on_fault = [this](const absl::Status& status) { copied_.Update(status); },
          .on_back = [this](SessionEntry& entry) { RetryCalls(entry); },
          .on_unread = [this](SessionEntry& entry,
                              const absl::Status& status) { FailWhoWaits(entry, status); },
          .on_lost =
              [this](SessionEntry& entry, const absl::Status& status) {
                FailWhoWaits(entry, status);
                sessions_.Erase(entry);
              }};
}

bool EngineLoop::IsOnItsWay(const SessionEntry& entry) const {
  return entry.residence == Residence::kMoving ||
         (entry.residence == Residence::kDisk && disk_.is_restoring());
}

bool EngineLoop::IsOnItsWay(const Waiting& waiting) const {
  return waiting.entry != nullptr && IsOnItsWay(*waiting.entry);
}

std::vector<SessionEntry*> EngineLoop::WaitingSessions(const SessionEntry* but) const {
  std::vector<SessionEntry*> entries;
  for (auto at = waiting_.rbegin(); at != waiting_.rend(); ++at) {
    SessionEntry* const entry = at->second.entry;
    if (entry != nullptr && entry != but && entry->residence == Residence::kMemory) {
      entries.push_back(entry);
    }
  }
  return entries;
}

void EngineLoop::FailWhoWaits(const SessionEntry& entry, const absl::Status& status) {
  FailCallsOf(entry, status);
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
