#include "engine/backend/cuda_copies.h"

#include <algorithm>

namespace ringserve {
namespace {

constexpr size_t kToDevice = 0;
constexpr size_t kToHost = 1;

cudaMemoryType TypeOf(const std::byte* data) {
  cudaPointerAttributes attributes = {};
  return cudaPointerGetAttributes(&attributes, data) == cudaSuccess ? attributes.type
                                                                    : cudaMemoryTypeUnregistered;
}

bool Overlap(const std::byte* a, size_t a_bytes, const std::byte* b, size_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

absl::Status Wait(const CudaStream& stream, const CudaEvent& event) {
  return FromCuda(cudaStreamWaitEvent(stream.get(), event.get(), 0), "ordering copies");
}

}  // namespace

absl::StatusOr<CudaCopies> CudaCopies::Create() {
  CudaCopies copies;
  for (CudaStream& stream : copies.streams_) {
    ASSIGN_OR_RETURN(stream, CudaStream::Create());
  }
  for (CudaEvent& event : copies.events_) {
    ASSIGN_OR_RETURN(event, CudaEvent::Create());
  }
  ASSIGN_OR_RETURN(copies.steps_so_far_, CudaEvent::Create());
  return copies;
}

bool CudaCopies::Fits(const std::byte* to, const std::byte* from) {
  const cudaMemoryType to_type = TypeOf(to);
  const cudaMemoryType from_type = TypeOf(from);
  return (to_type == cudaMemoryTypeDevice && from_type == cudaMemoryTypeHost) ||
         (to_type == cudaMemoryTypeHost && from_type == cudaMemoryTypeDevice);
}

absl::Status CudaCopies::Add(std::byte* to,
                             const std::byte* from,
                             size_t bytes,
                             const CudaStream& steps) {
  if (bytes == 0) {
    return absl::OkStatus();
  }
  while (copies_.size() >= kMaxCopies) {
    RETURN_IF_ERROR(events_[copies_.front().event].Await());
    copies_.pop_front();
  }
  const size_t direction = TypeOf(to) == cudaMemoryTypeDevice ? kToDevice : kToHost;
  const CudaStream& stream = streams_[direction];
  RETURN_IF_ERROR(steps_so_far_.Record(steps));
  RETURN_IF_ERROR(Wait(stream, steps_so_far_));
  for (const Copy& copy : copies_) {
    const bool touches = Overlap(copy.to, copy.bytes, to, bytes) ||
                         Overlap(copy.to, copy.bytes, from, bytes) ||
                         Overlap(copy.from, copy.bytes, to, bytes);
    if (touches && copy.direction != direction) {
      RETURN_IF_ERROR(Wait(stream, events_[copy.event]));
    }
  }
  RETURN_IF_ERROR(
      FromCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream.get()), "copying"));
  RETURN_IF_ERROR(events_[next_event_].Record(stream));
  copies_.push_back(
      {.to = to, .from = from, .bytes = bytes, .event = next_event_, .direction = direction});
  next_event_ = (next_event_ + 1) % kMaxCopies;
  return absl::OkStatus();
}

void CudaCopies::Forget() {
  while (!copies_.empty()) {
    const cudaError_t state = cudaEventQuery(events_[copies_.front().event].get());
    if (state == cudaErrorNotReady) {
      static_cast<void>(cudaGetLastError());  // or the next launch would report it
    }
    if (state != cudaSuccess) {
      return;
    }
    copies_.pop_front();
  }
}

absl::Status CudaCopies::Join(const CudaStream& stream, const std::byte* data, size_t bytes) {
  for (const Copy& copy : copies_) {
    if (Overlap(copy.to, copy.bytes, data, bytes) || Overlap(copy.from, copy.bytes, data, bytes)) {
      RETURN_IF_ERROR(Wait(stream, events_[copy.event]));
    }
  }
  return absl::OkStatus();
}

absl::Status CudaCopies::Join(const CudaStream& stream,
                              const KvView& pool,
                              std::span<const BlockEntry> blocks,
                              CudaGraph& graph) {
  const int64_t block_bytes = pool.layout.block_bytes();
  moving_.clear();
  for (const Copy& copy : copies_) {
    const std::byte* device = copy.direction == kToDevice ? copy.to : copy.from;
    const auto bytes = static_cast<int64_t>(copy.bytes);
    for (int64_t at = device - pool.pool; at < device - pool.pool + bytes; at += block_bytes) {
      moving_.emplace_back(at / block_bytes, copy.event);
    }
  }
  std::sort(moving_.begin(), moving_.end());
  for (const BlockEntry& entry : blocks) {
    auto found = std::lower_bound(
        moving_.begin(), moving_.end(), std::pair<int64_t, size_t>(entry.block, 0));
    for (; found != moving_.end() && found->first == entry.block; ++found) {
      RETURN_IF_ERROR(graph.Launch(stream));
      RETURN_IF_ERROR(Wait(stream, events_[found->second]));
    }
  }
  return absl::OkStatus();
}

absl::Status CudaCopies::Await() {
  for (const CudaStream& stream : streams_) {
    RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(stream.get()), "copying"));
  }
  copies_.clear();
  return absl::OkStatus();
}

}  // namespace ringserve
