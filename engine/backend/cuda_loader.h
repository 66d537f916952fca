// Brings weights to the device: tensors of a file, converted on all cores into pinned memory, piece
// by piece, while the piece before is copied.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/backend/cuda_resources.h"
#include "engine/base/status.h"
#include "kernels/matmul.h"
#include "kernels/thread_pool.h"
#include "kernels/types.h"

namespace ringserve {

class CudaLoader {
 public:
  // `stream` and `pool` must outlive the loader.
  static absl::StatusOr<CudaLoader> Create(const CudaStream& stream, ThreadPool& pool);

  // Enqueues the elements of `tensor`, converted to `dtype` (bf16 or f16), to `to` (device). On
  // return the tensor has been read; the bytes are there when the stream has come so far.
  absl::Status Load(const HostTensor& tensor, DType dtype, std::byte* to);

 private:
  CudaLoader(const CudaStream& stream, ThreadPool& pool) : stream_(&stream), pool_(&pool) {}

  struct Piece {
    Buffer pinned;
    CudaEvent copied;
  };

  const CudaStream* stream_;
  ThreadPool* pool_;
  std::array<Piece, 2> pieces_;
  size_t next_ = 0;
};

}  // namespace ringserve
