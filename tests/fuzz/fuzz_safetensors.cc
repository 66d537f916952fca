// Any bytes as a safetensors file: an error, or tensors whose every byte can be read.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/model/safetensors.h"

namespace {

uint8_t ReadAll(const ringserve::SafetensorsFile& file) {
  uint8_t mixed = 0;
  for (size_t i = 0; i < file.size(); ++i) {
    const ringserve::FileTensor tensor = file.tensor(i);
    uint64_t count = 1;
    for (const int64_t size : tensor.shape) {
      RS_CHECK(size >= 0);
      count *= static_cast<uint64_t>(size);
    }
    RS_CHECK(tensor.data.size() % std::max<uint64_t>(count, 1) == 0);
    for (const std::byte byte : tensor.data) {
      mixed ^= static_cast<uint8_t>(byte);
    }
  }
  return mixed;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  RS_CHECK(fd >= 0);
  RS_CHECK(write(fd, data, size) == static_cast<ssize_t>(size));
  const auto file = ringserve::SafetensorsFile::Open("/proc/self/fd/" + std::to_string(fd));
  if (file.ok()) {
    [[maybe_unused]] volatile uint8_t mixed = ReadAll(**file);
  }
  close(fd);
  return 0;
}
