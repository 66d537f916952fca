// Tells ThreadSanitizer what Abseil's locks order. The distributions' Abseil is not built for
// ThreadSanitizer, so every hand-over through absl::Mutex would look like a race, ours and gRPC's
// alike. These definitions stand before the library's: each calls the library and says on the
// way out what it acquired or on the way in what it releases. Linked only into tsan builds.
//
// The wrapped functions differ in their arguments, but all of them fit in registers, so one
// signature passes on what it does not know. A name that the installed Abseil does not have is
// never called.
#include <cstdint>
#include <cstdlib>
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <absl/base/options.h>

extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);

namespace {

using Wrapped = uint64_t (*)(void*, uint64_t, uint64_t, uint64_t, uint64_t);

Wrapped LibraryFunction(const char* symbol) {
  void* function = dlsym(RTLD_NEXT, symbol);
  if (function == nullptr) {
    std::abort();
  }
  return reinterpret_cast<Wrapped>(function);
}

// Inside the library conditions of other threads are evaluated, under a lock that
// ThreadSanitizer does not see; their reads are not judged.
class IgnoreReads {
 public:
  IgnoreReads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }

  ~IgnoreReads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }

  IgnoreReads(const IgnoreReads&) = delete;
  IgnoreReads& operator=(const IgnoreReads&) = delete;
};

uint64_t Call(Wrapped function, void* self, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  const IgnoreReads ignore;
  return function(self, a, b, c, d);
}

}  // namespace

#define RS_TEXT_(x) #x
#define RS_TEXT(x) RS_TEXT_(x)
#define RS_ABSL RS_TEXT(ABSL_OPTION_INLINE_NAMESPACE_NAME)
static_assert(sizeof(RS_ABSL) == sizeof("debian3"), "the mangled names below say 7");

// NOLINTBEGIN(bugprone-macro-parentheses): names and strings to concatenate.
#define RS_WRAP(name, const_mark, mangled, release_first, acquired)                            \
  extern "C" uint64_t name(void*, uint64_t, uint64_t, uint64_t, uint64_t) __asm__(             \
      "_ZN" const_mark "4absl7" RS_ABSL mangled);                                              \
  extern "C" uint64_t name(void* self, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {       \
    static const Wrapped library = LibraryFunction("_ZN" const_mark "4absl7" RS_ABSL mangled); \
    if (void* released = (release_first); released != nullptr) {                               \
      __tsan_release(released);                                                                \
    }                                                                                          \
    const uint64_t result = Call(library, self, a, b, c, d);                                   \
    if (void* got = (acquired); got != nullptr) {                                              \
      __tsan_acquire(got);                                                                     \
    }                                                                                          \
    return result;                                                                             \
  }
// NOLINTEND(bugprone-macro-parentheses)

#define RS_NOTHING nullptr
#define RS_MUTEX_OF_WAIT reinterpret_cast<void*>(a)

RS_WRAP(RsLock, "", "5Mutex4LockEv", RS_NOTHING, self)
RS_WRAP(RsReaderLock, "", "5Mutex10ReaderLockEv", RS_NOTHING, self)
RS_WRAP(RsTryLock, "", "5Mutex7TryLockEv", RS_NOTHING, (result & 1) != 0 ? self : nullptr)
RS_WRAP(RsReaderTry, "", "5Mutex13ReaderTryLockEv", RS_NOTHING, (result & 1) != 0 ? self : nullptr)
RS_WRAP(RsUnlock, "", "5Mutex6UnlockEv", self, RS_NOTHING)
RS_WRAP(RsReaderUnlock, "", "5Mutex12ReaderUnlockEv", self, RS_NOTHING)
RS_WRAP(RsLockWhen, "", "5Mutex8LockWhenERKNS0_9ConditionE", RS_NOTHING, self)
RS_WRAP(RsLockWhenFor,
        "",
        "5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE",
        RS_NOTHING,
        self)
RS_WRAP(RsLockWhenUntil,
        "",
        "5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE",
        RS_NOTHING,
        self)
RS_WRAP(RsLockWhenCommon,
        "",
        "5Mutex14LockWhenCommonERKNS0_9ConditionENS0_24synchronization_internal13KernelTimeoutEb",
        RS_NOTHING,
        self)
RS_WRAP(RsAwait, "", "5Mutex5AwaitERKNS0_9ConditionE", self, self)
RS_WRAP(RsAwaitFor, "", "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE", self, self)
RS_WRAP(RsAwaitUntil, "", "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE", self, self)
RS_WRAP(RsAwaitCommon,
        "",
        "5Mutex11AwaitCommonERKNS0_9ConditionENS0_24synchronization_internal13KernelTimeoutE",
        self,
        self)
RS_WRAP(RsWait, "", "7CondVar4WaitEPNS0_5MutexE", RS_MUTEX_OF_WAIT, RS_MUTEX_OF_WAIT)
RS_WRAP(RsWaitFor,
        "",
        "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE",
        RS_MUTEX_OF_WAIT,
        RS_MUTEX_OF_WAIT)
RS_WRAP(RsWaitUntil,
        "",
        "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE",
        RS_MUTEX_OF_WAIT,
        RS_MUTEX_OF_WAIT)
RS_WRAP(RsWaitCommon,
        "",
        "7CondVar10WaitCommonEPNS0_5MutexENS0_24synchronization_internal13KernelTimeoutE",
        RS_MUTEX_OF_WAIT,
        RS_MUTEX_OF_WAIT)
RS_WRAP(RsNotify, "", "12Notification6NotifyEv", self, RS_NOTHING)
RS_WRAP(RsWaitForNotification, "K", "12Notification19WaitForNotificationEv", RS_NOTHING, self)
