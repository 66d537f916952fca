#include "engine/backend/host_memory.h"

#include <filesystem>
#include <string>

#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

constexpr int64_t kMachine = int64_t{8000} * 1024;

// A machine of 8000 KiB whose process is in the groups of `cgroup`, as /proc/self/cgroup tells.
class Machine {
 public:
  explicit Machine(const std::string& cgroup) {
    std::filesystem::create_directories(root / "proc/self");
    root.Write("proc/meminfo", "MemFree: 100 kB\nMemTotal:    8000 kB\nHugePages_Total:  0\n");
    root.Write("proc/self/cgroup", cgroup);
  }

  void Limit(const std::string& group, const std::string& file, const std::string& value) const {
    std::filesystem::create_directories(root / ("sys/fs/cgroup" + group));
    root.Write("sys/fs/cgroup" + group + "/" + file, value + "\n");
  }

  int64_t Bytes() const { return HostMemoryBytes(root.path()); }

  TempDir root;
};

TEST_CASE("Without a group's limit the machine's memory counts") {
  CHECK(Machine("").Bytes() == kMachine);
  CHECK(Machine("no colons\n0::/a/b\n").Bytes() == kMachine);
  const Machine unlimited("0::/a\n5:cpu,memory:/b\n");
  unlimited.Limit("/a", "memory.max", "max");
  unlimited.Limit("/memory/b", "memory.limit_in_bytes", "9223372036854771712");
  CHECK(unlimited.Bytes() == kMachine);
  CHECK(HostMemoryBytes() > 0);
  CHECK(HostMemoryBytes("/nowhere") == 0);
}

TEST_CASE("The least limit of a group and of those above it counts") {
  const Machine own("0::/a/b\n");
  own.Limit("/a/b", "memory.max", "5000000");
  CHECK(own.Bytes() == 5000000);
  own.Limit("/a", "memory.max", "4000000");
  CHECK(own.Bytes() == 4000000);
  own.Limit("", "memory.max", "3000000");
  CHECK(own.Bytes() == 3000000);
  own.Limit("", "memory.max", "9000000000");
  CHECK(own.Bytes() == 4000000);
  const Machine container("0::/\n");
  container.Limit("", "memory.max", "536870");
  CHECK(container.Bytes() == 536870);
}

TEST_CASE("Groups of version 1 count by their controller") {
  const Machine machine("4:memory:/a\n3:cpuset:/c\n");
  machine.Limit("/memory/a", "memory.limit_in_bytes", "5000000");
  machine.Limit("/memory/c", "memory.limit_in_bytes", "1");
  machine.Limit("/c", "memory.max", "1");
  CHECK(machine.Bytes() == 5000000);
  // Where the own group is not to be seen, the container's files are at the top.
  const Machine container("4:memory:/docker/123\n");
  container.Limit("/memory", "memory.limit_in_bytes", "536870");
  CHECK(container.Bytes() == 536870);
}

TEST_CASE("What is more than the memory is refused with the numbers") {
  const int64_t gibibyte = int64_t{1} << 30;
  const BackendMemory wanted = {.device_bytes = 3 * gibibyte, .pinned_bytes = gibibyte / 2};
  CHECK(CheckHostMemory(wanted, 3 * gibibyte + gibibyte / 2).ok());
  CHECK(CheckHostMemory(wanted, 0).ok());
  const absl::Status refused = CheckHostMemory(wanted, 3 * gibibyte);
  CHECK(refused.code() == absl::StatusCode::kResourceExhausted);
  CHECK(refused.message() ==
        "the plan needs 3758096384 bytes (3.5 GiB) of memory, but this process can have only "
        "3221225472 (3.0 GiB); take a smaller scheduler.max_batch, rings.buffer_size or "
        "memory.device_bytes");
}

}  // namespace
}  // namespace ringserve
