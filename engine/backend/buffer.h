// Move-only bytes, allocated once at start: host, pinned or device memory.
#pragma once

#include <cstddef>
#include <functional>
#include <utility>

namespace ringserve {

enum class MemoryKind {
  kDevice,  // where kernels read and write; on the CPU backend ordinary memory, in huge pages if it
            // can
  kPinned,  // host memory that a device can copy from and to; on the CPU backend ordinary memory
};

// Owns bytes and the way to free them. Contents start undefined.
class Buffer {
 public:
  using Free = void (*)(std::byte* data, size_t size);

  Buffer() = default;

  Buffer(std::byte* data, size_t size, Free free) : data_(data), size_(size), free_(free) {}

  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        free_(other.free_) {}

  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      Reset();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
      free_ = other.free_;
    }
    return *this;
  }

  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  ~Buffer() { Reset(); }

  std::byte* data() const { return data_; }

  size_t size() const { return size_; }

  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void Reset() {
    if (data_ != nullptr) {
      free_(data_, size_);
      data_ = nullptr;
    }
  }

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  Free free_ = nullptr;
};

}  // namespace ringserve
