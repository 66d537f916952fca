// What each caller's requests came to.
#pragma once

#include <cstdint>
#include <list>
#include <string>
#include <unordered_map>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include "engine/request.h"

namespace ringserve {

struct CallerUsage {
  int64_t finished_requests = 0;
  int64_t failed_requests = 0;
  int64_t rollbacks = 0;
  Usage usage;  // sums
  HeldMemory held = {};
};

// Any thread. Remembers the callers that were heard of last, kMaxCallers of them.
class CallerAccounts {
 public:
  static constexpr size_t kMaxCallers = 65536;

  // A completion that has ended, and a request all of whose completions have: `finished` says
  // whether all did.
  void Add(const std::string& owner, const Usage& usage);
  void CountRequest(const std::string& owner, bool finished);
  void CountRollback(const std::string& owner);
  void Charge(const std::string& owner, const HeldMemory& held);
  // All zero for one who never asked for anything.
  CallerUsage Get(const std::string& owner) const;

 private:
  struct Account {
    std::string owner;
    CallerUsage usage;
  };

  // Makes it the last heard of.
  CallerUsage& Touch(const std::string& owner) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::list<Account> accounts_ ABSL_GUARDED_BY(mutex_);  // last heard of first
  std::unordered_map<std::string, std::list<Account>::iterator> by_owner_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ringserve
