#include "engine/backend/host_memory.h"

#include <algorithm>
#include <fstream>
#include <string_view>

#include <fmt/format.h>

namespace ringserve {
namespace {

// The smallest limit in `file` of `group` and of the groups above it, at most `bytes`. In a
// container the files of its own group may lie at the top, whatever path it is told.
int64_t LeastLimit(const std::string& top,
                   std::string group,
                   const std::string& file,
                   int64_t bytes) {
  for (;;) {
    std::ifstream stream(fmt::format("{}{}/{}", top, group, file));
    // Version 2 writes "max" and version 1 nearly 2^63 where there is no limit.
    if (int64_t limit = 0; stream >> limit && limit > 0) {
      bytes = std::min(bytes, limit);
    }
    const size_t parent = group.rfind('/');
    if (parent == std::string::npos) {
      return bytes;
    }
    group.resize(parent);
  }
}

// True if the comma-separated list names `controller`.
bool Names(std::string_view controllers, std::string_view controller) {
  while (!controllers.empty()) {
    const size_t comma = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, comma) == controller) {
      return true;
    }
    controllers.remove_prefix(std::min(comma + 1, controllers.size()));
  }
  return false;
}

int64_t MachineBytes(const std::string& root) {
  std::ifstream file(root + "/proc/meminfo");
  constexpr std::string_view kTotal = "MemTotal:";
  std::string name;
  int64_t kib = 0;
  for (std::string unit; file >> name >> kib; std::getline(file, unit)) {
    if (name == kTotal) {
      return kib * 1024;
    }
  }
  return 0;
}

}  // namespace

int64_t HostMemoryBytes(const std::string& root) {
  int64_t bytes = MachineBytes(root);
  if (bytes == 0) {
    return 0;
  }
  // Lines "number:controllers:/path"; version 2 has number 0 and names no controller.
  std::ifstream self(root + "/proc/self/cgroup");
  for (std::string line; std::getline(self, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) {
      continue;
    }
    std::string group = line.substr(second + 1);
    if (group == "/") {
      group.clear();
    }
    const std::string_view controllers =
        std::string_view(line).substr(first + 1, second - first - 1);
    if (controllers.empty()) {
      bytes = LeastLimit(root + "/sys/fs/cgroup", group, "memory.max", bytes);
    } else if (Names(controllers, "memory")) {
      bytes = LeastLimit(root + "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes", bytes);
    }
  }
  return bytes;
}

absl::Status CheckHostMemory(const BackendMemory& wanted, int64_t memory_bytes) {
  const int64_t bytes = wanted.device_bytes + wanted.pinned_bytes;
  if (memory_bytes == 0 || bytes <= memory_bytes) {
    return absl::OkStatus();
  }
  const auto gibibytes = [](int64_t count) { return static_cast<double>(count) / (1 << 30); };
  return absl::ResourceExhaustedError(fmt::format(
      "the plan needs {} bytes ({:.1f} GiB) of memory, but this process can have only {} "
      "({:.1f} GiB); take a smaller scheduler.max_batch, rings.buffer_size or "
      "memory.device_bytes",
      bytes,
      gibibytes(bytes),
      memory_bytes,
      gibibytes(memory_bytes)));
}

}  // namespace ringserve
