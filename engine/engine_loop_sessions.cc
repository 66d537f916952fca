// What other threads ask about sessions: each call becomes one on the engine thread.
#include <algorithm>
#include <limits>
#include <utility>

#include "engine/engine_loop.h"

namespace ringserve {

void EngineLoop::CreateSession(std::string owner, SessionOptions options, SessionReply reply) {
  Ask(std::move(reply), [this, owner = std::move(owner), options] {
    return sessions_.Create(owner, options, parts_.clock());
  });
}

void EngineLoop::GetSession(std::string owner, std::string id, SessionReply reply) {
  Ask(std::move(reply),
      [this, owner = std::move(owner), id = std::move(id)] { return sessions_.Get(owner, id); });
}

void EngineLoop::ListSessions(std::string owner, SessionListReply reply) {
  Ask(std::move(reply), [this, owner = std::move(owner)] { return sessions_.List(owner); });
}

void EngineLoop::ForkSession(const std::string& owner,
                             const std::string& id,
                             std::optional<int64_t> position,
                             const CallOptions& options,
                             SessionReply reply) {
  AskForBlocks(
      {.owner = owner, .session_id = id, .options = options},
      std::move(reply),
      [this, owner, id, position] { return sessions_.Fork(owner, id, position, parts_.clock()); });
}

void EngineLoop::RollbackSession(const std::string& owner,
                                 const std::string& id,
                                 int64_t position,
                                 const CallOptions& options,
                                 SessionReply reply) {
  AskForBlocks({.owner = owner, .session_id = id, .options = options},
               std::move(reply),
               [this, owner, id, position] {
                 return sessions_.Rollback(owner, id, position, parts_.clock());
               });
}

void EngineLoop::CloseSession(std::string owner, std::string id, SessionReply reply) {
  Ask(std::move(reply),
      [this, owner = std::move(owner), id = std::move(id)]() -> absl::StatusOr<SessionInfo> {
        SessionEntry* const entry = sessions_.Find(owner, id);
        if (entry != nullptr && entry->request_id.has_value()) {
          Apply({.request_id = *entry->request_id, .kind = RequestCommand::Kind::kCancel});
          RemoveEnded();
        }
        ASSIGN_OR_RETURN(SessionInfo info, sessions_.Get(owner, id));
        sessions_.Erase(*entry);
        return info;
      });
}

}  // namespace ringserve
