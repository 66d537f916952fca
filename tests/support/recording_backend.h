// A backend that allocates, copies and packs, counts what it was asked for, and computes nothing.
// Packed matrices are row-major, so that a test can read them.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/base/check.h"

namespace ringserve {

class RecordingBackend final : public Backend {
 public:
  explicit RecordingBackend(bool reads_host_memory = true, bool serves_one_model = false)
      : reads_host_memory_(reads_host_memory), serves_one_model_(serves_one_model) {}

  int64_t device_bytes() const { return device_bytes_; }

  int64_t pinned_bytes() const { return pinned_bytes_; }

  int32_t num_allocations() const { return num_allocations_; }

  // Of all backends that were not freed yet.
  static int64_t num_live() { return num_live_; }

  // The allocation that is `count` away (0: the next) fails.
  void FailAllocation(int32_t count) { failing_allocation_ = num_allocations_ + count; }

  BackendInfo info() const override {
    BackendInfo info;
    info.device = "recording";
    info.reads_host_memory = reads_host_memory_;
    info.serves_one_model = serves_one_model_;
    return info;
  }

  absl::Status CheckModel(const ModelConfig& /*config*/, DType /*dtype*/) const override {
    return absl::OkStatus();
  }

  absl::Status CheckSteps(const StepLimits&) const override { return absl::OkStatus(); }

  BackendMemory StepMemory(const ModelConfig&, DType, const StepLimits&) const override {
    return serves_one_model_ ? kStepMemory
                             : BackendMemory{.device_bytes = kStepMemory.device_bytes};
  }

  absl::Status PrepareSteps(const ModelConfig&, DType, const StepLimits&) override {
    RS_CHECK(!serves_one_model_ || step_device_.data() == nullptr);
    if (step_device_.data() == nullptr) {
      ASSIGN_OR_RETURN(step_device_, Allocate(kStepMemory.device_bytes, MemoryKind::kDevice));
    }
    if (serves_one_model_) {
      ASSIGN_OR_RETURN(step_pinned_, Allocate(kStepMemory.pinned_bytes, MemoryKind::kPinned));
    }
    return absl::OkStatus();
  }

  absl::Status CheckMemory(const BackendMemory&) const override { return absl::OkStatus(); }

  absl::StatusOr<Buffer> Allocate(size_t bytes, MemoryKind kind) override {
    if (num_allocations_ == failing_allocation_) {
      return absl::ResourceExhaustedError("memory: there is no more");
    }
    ++num_live_;
    (kind == MemoryKind::kDevice ? device_bytes_ : pinned_bytes_) += static_cast<int64_t>(bytes);
    ++num_allocations_;
    auto* data = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{128}));
    std::memset(data, 0xa5, bytes);
    return Buffer(data, bytes, [](std::byte* memory, size_t) {
      --num_live_;
      ::operator delete (memory, std::align_val_t{128});
    });
  }

  absl::Status Copy(std::byte* to, const std::byte* from, size_t bytes) override {
    std::memcpy(to, from, bytes);
    return absl::OkStatus();
  }

  // More than the elements need, as real layouts do.
  size_t MatrixBytes(int64_t rows, int64_t cols, DType dtype) const override {
    return static_cast<size_t>(RoundUp<int64_t>(rows * cols * DTypeBytes(dtype), 128) + 128);
  }

  absl::StatusOr<Matrix> PackMatrix(std::span<const HostTensor> parts,
                                    DType dtype,
                                    std::byte* to) override {
    RS_CHECK(reinterpret_cast<uintptr_t>(to) % 128 == 0);
    Matrix matrix = {.data = to, .rows = 0, .cols = parts.front().cols, .dtype = dtype};
    for (const HostTensor& part : parts) {
      RS_CHECK(part.cols == matrix.cols);
      for (int64_t i = 0; i < part.rows * part.cols; ++i) {
        Store(Load(part, i), dtype, to + (matrix.rows * matrix.cols + i) * DTypeBytes(dtype));
      }
      matrix.rows += part.rows;
    }
    return matrix;
  }

  absl::Status BeginStep(const StepTiles& /*tiles*/) override { return absl::OkStatus(); }

  absl::StatusOr<const std::byte*> Upload(const std::byte* from, size_t /*bytes*/) override {
    return from;
  }

  absl::Status Embed(const EmbedArgs& /*args*/) override { return None(); }

  absl::Status RmsNorm(const RmsNormArgs& /*args*/) override { return None(); }

  absl::Status MatMul(const MatMulArgs& /*args*/) override { return None(); }

  absl::Status RopeAngles(const RopeAnglesArgs& /*args*/) override { return None(); }

  absl::Status RopeAppend(const RopeAppendArgs& /*args*/) override { return None(); }

  absl::Status Attention(const AttentionArgs& /*args*/) override { return None(); }

  absl::Status SwiGlu(const SwiGluArgs& /*args*/) override { return None(); }

  absl::Status Sample(const SampleArgs& /*args*/) override { return None(); }

  absl::Status EndStep() override { return absl::OkStatus(); }

  absl::Status AwaitStep() override { return absl::OkStatus(); }

  absl::Status Synchronize() override { return absl::OkStatus(); }

  static float Load(const HostTensor& tensor, int64_t index) {
    const std::byte* from = tensor.data + index * DTypeBytes(tensor.dtype);
    if (tensor.dtype == DType::kF32) {
      float value = 0;
      std::memcpy(&value, from, sizeof(value));
      return value;
    }
    uint16_t bits = 0;
    std::memcpy(&bits, from, sizeof(bits));
    return tensor.dtype == DType::kBf16 ? ToFloat(Bf16{bits}) : ToFloat(F16{bits});
  }

  static float At(const Matrix& matrix, int64_t row, int64_t col) {
    return Load({matrix.data, matrix.rows, matrix.cols, matrix.dtype}, row * matrix.cols + col);
  }

 private:
  static absl::Status None() { return absl::UnimplementedError("recording backend"); }

  static void Store(float value, DType dtype, std::byte* to) {
    const Bf16 rounded = ToBf16(value);
    std::memcpy(to,
                dtype == DType::kF32 ? static_cast<const void*>(&value) : &rounded,
                static_cast<size_t>(DTypeBytes(dtype)));
  }

  static constexpr BackendMemory kStepMemory = {.device_bytes = 4096, .pinned_bytes = 512};

  bool reads_host_memory_;
  bool serves_one_model_;
  Buffer step_device_;
  Buffer step_pinned_;
  int64_t device_bytes_ = 0;
  int64_t pinned_bytes_ = 0;
  int32_t num_allocations_ = 0;
  int32_t failing_allocation_ = -1;
  static inline std::atomic<int64_t> num_live_ = 0;
};

}  // namespace ringserve
