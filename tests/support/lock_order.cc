// Where Abseil looks for lock cycles, it must be told of every lock that goes: code compiled with
// NDEBUG does not tell it, and Debian 13's library looks all the same, so that a lock at the
// address of one that is gone may be taken for part of a cycle, which ends the program. Debug
// builds tell it, and go on looking.
#include <absl/synchronization/mutex.h>

#ifdef NDEBUG
namespace ringserve {
namespace {

const bool kIgnoresLockOrder = [] {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return true;
}();

}  // namespace
}  // namespace ringserve
#endif
