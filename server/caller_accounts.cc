#include "server/caller_accounts.h"

#include <utility>

namespace ringserve {

CallerUsage& CallerAccounts::Touch(const std::string& owner) {
  const auto found = by_owner_.find(owner);
  if (found != by_owner_.end()) {
    accounts_.splice(accounts_.begin(), accounts_, found->second);
  } else {
    if (accounts_.size() == kMaxCallers) {
      by_owner_.erase(accounts_.back().owner);
      accounts_.pop_back();
    }
    accounts_.push_front({.owner = owner, .usage = {}});
    by_owner_.emplace(owner, accounts_.begin());
  }
  return accounts_.front().usage;
}

void CallerAccounts::CountRequest(const std::string& owner, bool finished) {
  absl::MutexLock lock(&mutex_);
  CallerUsage& sum = Touch(owner);
  ++(finished ? sum.finished_requests : sum.failed_requests);
}

void CallerAccounts::CountRollback(const std::string& owner) {
  absl::MutexLock lock(&mutex_);
  ++Touch(owner).rollbacks;
}

void CallerAccounts::Charge(const std::string& owner, const HeldMemory& held) {
  absl::MutexLock lock(&mutex_);
  Touch(owner).held.Add(held);
}

void CallerAccounts::Add(const std::string& owner, const Usage& usage) {
  absl::MutexLock lock(&mutex_);
  CallerUsage& sum = Touch(owner);
  sum.usage.prompt_tokens += usage.prompt_tokens;
  sum.usage.cached_tokens += usage.cached_tokens;
  sum.usage.reprefilled_tokens += usage.reprefilled_tokens;
  sum.usage.evicted_tokens += usage.evicted_tokens;
  sum.usage.completion_tokens += usage.completion_tokens;
  sum.usage.drafted_tokens += usage.drafted_tokens;
  sum.usage.accepted_tokens += usage.accepted_tokens;
}

CallerUsage CallerAccounts::Get(const std::string& owner) const {
  absl::MutexLock lock(&mutex_);
  const auto found = by_owner_.find(owner);
  return found == by_owner_.end() ? CallerUsage() : found->second->usage;
}

}  // namespace ringserve
