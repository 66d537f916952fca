#include "engine/backend/cuda_staging.h"

#include <fmt/format.h>

#include "kernels/fetch_cuda.h"
#include "kernels/types.h"

namespace ringserve {
namespace {

constexpr int64_t kAlignment = 256;
constexpr int64_t kResultBytes = sizeof(cuda::SampleCudaResult);

absl::Status TooMuch(std::string_view what, int64_t wanted, int64_t limit) {
  return absl::InternalError(
      fmt::format("a step wants {} {}, its limits allow {}", wanted, what, limit));
}

}  // namespace

int64_t CudaStaging::PlacedBytes(int64_t bytes) {
  return RoundUp(bytes, kAlignment);
}

int64_t CudaStaging::Sizes::device_bytes() const {
  return RoundUp(upload_bytes, kAlignment);
}

int64_t CudaStaging::Sizes::pinned_bytes() const {
  return kNumSlots * (device_bytes() + RoundUp(max_results * kResultBytes, kAlignment));
}

absl::StatusOr<CudaStaging> CudaStaging::Create(const Sizes& sizes,
                                                std::byte* device,
                                                std::byte* pinned) {
  CudaStaging staging;
  staging.sizes_ = sizes;
  staging.device_ = device;
  staging.pinned_ = pinned;
  staging.slot_bytes_ = sizes.pinned_bytes() / kNumSlots;
  for (CudaEvent& event : staging.ended_) {
    ASSIGN_OR_RETURN(event, CudaEvent::Create());
  }
  return staging;
}

absl::Status CudaStaging::Begin() {
  slot_ = (slot_ + 1) % kNumSlots;
  taken_ = 0;
  flushed_ = 0;
  num_results_ = 0;
  return Await(slot_);
}

absl::StatusOr<CudaStaging::Place> CudaStaging::Take(size_t bytes) {
  const int64_t end = taken_ + PlacedBytes(static_cast<int64_t>(bytes));
  if (end > sizes_.device_bytes()) {
    return TooMuch("bytes of arrays", end, sizes_.device_bytes());
  }
  const Place place = {.host = SlotAt(slot_) + taken_, .device = device_ + taken_};
  taken_ = end;
  return place;
}

absl::Status CudaStaging::Flush(const CudaStream& stream) {
  if (flushed_ == taken_) {
    return absl::OkStatus();
  }
  const int64_t first = flushed_;
  flushed_ = taken_;
  return FromCuda(
      cuda::LaunchFetch(device_ + first, SlotAt(slot_) + first, taken_ - first, stream.get()),
      "sending a step's arrays");
}

absl::StatusOr<CudaStaging::Results> CudaStaging::TakeResults(size_t count) {
  const int64_t end = num_results_ + static_cast<int64_t>(count);
  if (end > sizes_.max_results) {
    return TooMuch("sampled rows", end, sizes_.max_results);
  }
  auto* all = reinterpret_cast<cuda::SampleCudaResult*>(SlotAt(slot_) + sizes_.device_bytes());
  const Results results = {.at = all + num_results_, .first = static_cast<int32_t>(num_results_)};
  num_results_ = end;
  return results;
}

absl::Status CudaStaging::End(const CudaStream& stream) {
  return ended_[static_cast<size_t>(slot_)].Record(stream);
}

absl::Status CudaStaging::Await(int32_t slot) const {
  return ended_[static_cast<size_t>(slot)].Await();
}

}  // namespace ringserve
