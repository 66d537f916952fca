#include "engine/backend/cuda_loader.h"

#include <algorithm>
#include <cstring>

namespace ringserve {
namespace {

constexpr int64_t kPieceElements = int64_t{8} << 20;  // 16 MiB: copied at full bandwidth
constexpr int64_t kGrainElements = int64_t{1} << 18;

constexpr int64_t kElementBytes = 2;

// Elements [first, last) of `tensor` as `dtype`, bf16 or f16.
void Convert(const HostTensor& tensor, int64_t first, int64_t last, DType dtype, uint16_t* to) {
  // Tensors of a file begin at any byte.
  const std::byte* from = tensor.data + first * DTypeBytes(tensor.dtype);
  if (tensor.dtype == dtype) {
    std::memcpy(to, from, static_cast<size_t>((last - first) * kElementBytes));
    return;
  }
  for (int64_t i = 0; i < last - first; ++i) {
    float value = 0;
    if (tensor.dtype == DType::kF32) {
      std::memcpy(&value, from + i * 4, sizeof(value));
    } else {
      uint16_t bits = 0;
      std::memcpy(&bits, from + i * 2, sizeof(bits));
      value = tensor.dtype == DType::kBf16 ? ToFloat(Bf16{bits}) : ToFloat(F16{bits});
    }
    to[i] = dtype == DType::kBf16 ? ToBf16(value).bits : ToF16(value).bits;
  }
}

}  // namespace

absl::StatusOr<CudaLoader> CudaLoader::Create(const CudaStream& stream, ThreadPool& pool) {
  CudaLoader loader(stream, pool);
  for (Piece& piece : loader.pieces_) {
    ASSIGN_OR_RETURN(piece.pinned,
                     AllocatePinnedMemory(static_cast<size_t>(kPieceElements * kElementBytes)));
    ASSIGN_OR_RETURN(piece.copied, CudaEvent::Create());
  }
  return loader;
}

absl::Status CudaLoader::Load(const HostTensor& tensor, DType dtype, std::byte* to) {
  const int64_t count = tensor.rows * tensor.cols;
  for (int64_t first = 0; first < count; first += kPieceElements) {
    Piece& piece = pieces_[next_];
    next_ = (next_ + 1) % pieces_.size();
    RETURN_IF_ERROR(piece.copied.Await());
    const int64_t length = std::min(kPieceElements, count - first);
    auto* staged = piece.pinned.as<uint16_t>();
    pool_->ParallelFor(length, kGrainElements, [&](int64_t begin, int64_t end) {
      Convert(tensor, first + begin, first + end, dtype, staged + begin);
    });
    RETURN_IF_ERROR(FromCuda(cudaMemcpyAsync(to + first * kElementBytes,
                                             piece.pinned.data(),
                                             static_cast<size_t>(length * kElementBytes),
                                             cudaMemcpyHostToDevice,
                                             stream_->get()),
                             "loading weights"));
    RETURN_IF_ERROR(piece.copied.Record(*stream_));
  }
  return absl::OkStatus();
}

}  // namespace ringserve
