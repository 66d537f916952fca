// How much of a program's time the GPU is without a kernel: a library that the CUDA driver loads
// into the program (CUDA_INJECTION64_PATH=libcoverage_cuda.so) and that prints, when the program
// ends, of the last COVERAGE_MS milliseconds (300) before its last kernel the share that no kernel
// covered, and of the kernels of each name how long they ran, and how long after all kernels that
// began before them had ended: kernels that start under the end of another wait for it, so that
// only the second tells what they take. Needs libcupti.so.13.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cupti.h>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr size_t kBufferBytes = size_t{16} << 20;

struct Interval {
  uint64_t start;
  uint64_t end;
  std::string name;
};

struct Cupti {
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityFlushAll) flush = nullptr;
  decltype(&cuptiActivityGetNextRecord) next = nullptr;
};

Cupti cupti;
std::mutex mutex;
std::vector<Interval> kernels;

void CUPTIAPI Lend(uint8_t** buffer, size_t* bytes, size_t* max_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *bytes = kBufferBytes;
  *max_records = 0;
}

void CUPTIAPI Return(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  CUpti_Activity* record = nullptr;
  const std::lock_guard lock(mutex);
  while (cupti.next(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      kernels.push_back({kernel->start, kernel->end, kernel->name});
    }
  }
  std::free(buffer);
}

void Report() {
  cupti.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  const std::lock_guard lock(mutex);
  if (kernels.empty()) {
    std::printf("coverage: no kernel was seen\n");
    return;
  }
  const char* wanted = std::getenv("COVERAGE_MS");
  const auto window = static_cast<uint64_t>(1e6 * (wanted == nullptr ? 300 : std::atof(wanted)));
  std::sort(kernels.begin(), kernels.end(), [](const Interval& a, const Interval& b) {
    return a.start < b.start;
  });
  uint64_t last = 0;
  for (const Interval& kernel : kernels) {
    last = std::max(last, kernel.end);
  }
  const uint64_t first = std::max(last - window, kernels.front().start);
  uint64_t covered_to = first;
  uint64_t uncovered = 0;

  struct Times {
    uint64_t ran = 0;
    uint64_t alone = 0;
    int64_t count = 0;
  };

  std::map<std::string, Times> times;
  for (const Interval& kernel : kernels) {
    if (kernel.end <= first) {
      continue;
    }
    uncovered += kernel.start > covered_to ? kernel.start - covered_to : 0;
    Times& of_name = times[kernel.name.substr(0, 90)];
    of_name.ran += kernel.end - kernel.start;
    of_name.alone += kernel.end - std::min(kernel.end, std::max(kernel.start, covered_to));
    ++of_name.count;
    covered_to = std::max(covered_to, kernel.end);
  }
  std::printf("coverage: %.2f %% of the last %.0f ms without a kernel\n",
              100.0 * static_cast<double>(uncovered) / static_cast<double>(last - first),
              static_cast<double>(last - first) * 1e-6);
  std::vector<std::pair<uint64_t, std::string>> order;
  for (const auto& [name, time] : times) {
    order.emplace_back(time.alone, name);
  }
  std::sort(order.rbegin(), order.rend());
  for (const auto& [alone, name] : order) {
    const Times& time = times[name];
    std::printf("  %9.1f us  %6lld x %8.2f us, %8.2f alone  %s\n",
                static_cast<double>(alone) * 1e-3,
                static_cast<long long>(time.count),
                static_cast<double>(time.ran) * 1e-3 / static_cast<double>(time.count),
                static_cast<double>(alone) * 1e-3 / static_cast<double>(time.count),
                name.c_str());
  }
}

template <typename F>
bool Find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

// The driver calls it before the program's first CUDA call has done anything.
extern "C" int InitializeInjection() {
  void* library = dlopen("libcupti.so.13", RTLD_NOW);
  if (library == nullptr || !Find(library, "cuptiActivityEnable", cupti.enable) ||
      !Find(library, "cuptiActivityRegisterCallbacks", cupti.register_callbacks) ||
      !Find(library, "cuptiActivityFlushAll", cupti.flush) ||
      !Find(library, "cuptiActivityGetNextRecord", cupti.next)) {
    std::printf("coverage: no libcupti.so.13 (%s)\n", dlerror());
    return 0;
  }
  if (cupti.register_callbacks(Lend, Return) != CUPTI_SUCCESS ||
      cupti.enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS) {
    std::printf("coverage: CUPTI refuses\n");
    return 0;
  }
  std::atexit(Report);
  return 1;
}
