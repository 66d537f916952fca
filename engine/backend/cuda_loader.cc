#include "engine/backend/cuda_loader.h"

#include <algorithm>
#include <cstring>

namespace ringserve {
namespace {

constexpr int64_t kPieceElements = int64_t{8} << 20;  // 16 MiB: copied at full bandwidth
constexpr int64_t kGrainElements = int64_t{1} << 18;

// Elements [first, last) of `tensor` as bf16.
void Convert(const HostTensor& tensor, int64_t first, int64_t last, Bf16* to) {
  if (tensor.dtype == DType::kBf16) {
    std::memcpy(to,
                tensor.data + first * static_cast<int64_t>(sizeof(Bf16)),
                static_cast<size_t>(last - first) * sizeof(Bf16));
    return;
  }
  // Tensors of a file begin at any byte.
  const std::byte* from = tensor.data + first * DTypeBytes(tensor.dtype);
  for (int64_t i = 0; i < last - first; ++i) {
    float value = 0;
    if (tensor.dtype == DType::kF32) {
      std::memcpy(&value, from + i * 4, sizeof(value));
    } else {
      F16 half = {};
      std::memcpy(&half, from + i * 2, sizeof(half));
      value = ToFloat(half);
    }
    to[i] = ToBf16(value);
  }
}

}  // namespace

absl::StatusOr<CudaLoader> CudaLoader::Create(const CudaStream& stream, ThreadPool& pool) {
  CudaLoader loader(stream, pool);
  for (Piece& piece : loader.pieces_) {
    ASSIGN_OR_RETURN(piece.pinned,
                     AllocatePinnedMemory(static_cast<size_t>(kPieceElements) * sizeof(Bf16)));
    ASSIGN_OR_RETURN(piece.copied, CudaEvent::Create());
  }
  return loader;
}

absl::Status CudaLoader::Load(const HostTensor& tensor, std::byte* to) {
  const int64_t count = tensor.rows * tensor.cols;
  for (int64_t first = 0; first < count; first += kPieceElements) {
    Piece& piece = pieces_[next_];
    next_ = (next_ + 1) % pieces_.size();
    RETURN_IF_ERROR(piece.copied.Await());
    const int64_t length = std::min(kPieceElements, count - first);
    auto* staged = piece.pinned.as<Bf16>();
    pool_->ParallelFor(length, kGrainElements, [&](int64_t begin, int64_t end) {
      Convert(tensor, first + begin, first + end, staged + begin);
    });
    RETURN_IF_ERROR(FromCuda(cudaMemcpyAsync(to + first * static_cast<int64_t>(sizeof(Bf16)),
                                             piece.pinned.data(),
                                             static_cast<size_t>(length) * sizeof(Bf16),
                                             cudaMemcpyHostToDevice,
                                             stream_->get()),
                             "loading weights"));
    RETURN_IF_ERROR(piece.copied.Record(*stream_));
  }
  return absl::OkStatus();
}

}  // namespace ringserve
