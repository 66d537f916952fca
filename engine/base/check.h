// Checks of our own invariants, never of input: a failed check is a bug, so it says where and
// aborts.
#pragma once

namespace ringserve {

// Prints "file:line: check failed: condition" to stderr and aborts. Safe from any thread.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);

}  // namespace ringserve

// In every build; one condition per check.
#define RS_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::ringserve::CheckFailed(__FILE__, __LINE__, #condition))

// In debug builds and with the CMake option RINGSERVE_DCHECKS; for hot loops and for invariants
// that cost more than O(1) to verify.
#if defined(NDEBUG) && !defined(RINGSERVE_DCHECKS)
#define RS_DCHECK(condition) static_cast<void>(sizeof(!(condition)))
#else
#define RS_DCHECK(condition) RS_CHECK(condition)
#endif
