// Memory for a packed weight, aligned as PackMatrixCpu asks.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>

namespace ringserve {

class Slab {
 public:
  explicit Slab(size_t bytes)
      : data_(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{128}))) {
    std::memset(data_, 0xff, bytes);  // NaN in every dtype: what packing leaves out shows itself
  }

  ~Slab() { ::operator delete (data_, std::align_val_t{128}); }

  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  std::byte* data() { return data_; }

 private:
  std::byte* data_;
};

}  // namespace ringserve
