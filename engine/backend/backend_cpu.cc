#include "engine/backend/backend_cpu.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <sys/mman.h>
#include <system_error>

#include <fmt/format.h>

#include "engine/backend/host_memory.h"
#include "engine/base/check.h"
#include "engine/sample/sampler.h"
#include "kernels/cpu_features.h"
#include "kernels/thread_pool.h"

namespace ringserve {
namespace {

constexpr int32_t kMaxThreads = 1024;

// Bytes that one thread copies at a time; less is not worth waking another for.
constexpr int64_t kCopyPiece = int64_t{256} << 10;

// The first "model name" of /proc/cpuinfo; not every architecture tells one.
std::string CpuModelName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) {
      const size_t colon = line.find(": ");
      return colon == std::string::npos ? "cpu" : line.substr(colon + 2);
    }
  }
  return "cpu";
}

void Unmap(std::byte* data, size_t size) {
  munmap(data, size);
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int32_t num_threads) : pool_(num_threads) {}

  BackendInfo info() const override {
    return {.device = "cpu",
            .name = CpuModelName(),
            .kernels = CpuKernelNames(),
            .num_workers = pool_.num_threads(),
            .reads_host_memory = true};
  }

  absl::Status CheckModel(const ModelConfig& config, DType dtype) const override {
    if (dtype != DType::kBf16 && dtype != DType::kF32) {
      return absl::InvalidArgumentError(
          fmt::format("model.dtype: {} is not bf16 or f32", DTypeName(dtype)));
    }
    if (config.head_dim % 8 != 0 || config.head_dim > 256) {
      return absl::InvalidArgumentError(fmt::format(
          "config.json: head_dim: {} is not a multiple of 8 in [8, 256]", config.head_dim));
    }
    return absl::OkStatus();
  }

  absl::Status CheckSteps(const StepLimits& /*limits*/) const override { return absl::OkStatus(); }

  // For the rows of a product, of the widest that the model has. Models share the largest.
  BackendMemory StepMemory(const ModelConfig& config,
                           DType dtype,
                           const StepLimits& limits) const override {
    const int32_t max_rows =
        std::max({limits.max_rows, limits.max_encoder_rows, limits.max_logits_rows});
    const int32_t max_cols = std::max({config.hidden_dim,
                                       config.ffn_dim,
                                       config.moe.ffn_dim,
                                       config.num_heads * config.head_dim});
    return {.device_bytes = MatMulWorkspaceBytes(max_rows, max_cols, dtype)};
  }

  absl::Status PrepareSteps(const ModelConfig& config,
                            DType dtype,
                            const StepLimits& limits) override {
    const int64_t bytes = StepMemory(config, dtype, limits).device_bytes;
    if (bytes > static_cast<int64_t>(matmul_workspace_.size())) {
      matmul_workspace_ = Buffer();  // never both at once
      ASSIGN_OR_RETURN(matmul_workspace_,
                       Allocate(static_cast<size_t>(bytes), MemoryKind::kDevice));
    }
    return absl::OkStatus();
  }

  // Pages are taken as they are touched: without this a plan too large would meet the system's
  // killer in the middle of a load, or later.
  absl::Status CheckMemory(const BackendMemory& wanted) const override {
    return CheckHostMemory(wanted, HostMemoryBytes());
  }

  absl::StatusOr<Buffer> Allocate(size_t bytes, MemoryKind /*kind*/) override {
    // Zero-filled by the kernel on first touch; huge pages lift read bandwidth by a quarter.
    constexpr size_t kHugePage = size_t{2} << 20;
    const size_t size = RoundUp(std::max<size_t>(bytes, 1), bytes >= kHugePage ? kHugePage : 4096);
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          fmt::format("{} bytes of memory: {}", bytes, std::generic_category().message(errno)));
    }
    madvise(data, size, MADV_HUGEPAGE);  // advice: a system without them serves small pages
    return Buffer(static_cast<std::byte*>(data), size, &Unmap);
  }

  // With all threads: one alone does not fill the memory's bandwidth.
  absl::Status Copy(std::byte* to, const std::byte* from, size_t bytes) override {
    const auto size = static_cast<int64_t>(bytes);
    pool_.ParallelFor(size, kCopyPiece, [&](int64_t first, int64_t last) {
      std::memcpy(to + first, from + first, static_cast<size_t>(last - first));
    });
    return absl::OkStatus();
  }

  size_t MatrixBytes(int64_t rows, int64_t cols, DType dtype) const override {
    return PackedMatrixBytes(rows, cols, dtype);
  }

  absl::StatusOr<Matrix> PackMatrix(std::span<const HostTensor> parts,
                                    DType dtype,
                                    std::byte* to) override {
    return PackMatrixCpu(parts, dtype, to, pool_);
  }

  absl::Status BeginStep(const StepTiles& /*tiles*/) override { return absl::OkStatus(); }

  absl::StatusOr<const std::byte*> Upload(const std::byte* from, size_t /*bytes*/) override {
    return from;
  }

  absl::Status Embed(const EmbedArgs& args) override {
    EmbedCpu(args);
    return absl::OkStatus();
  }

  absl::Status RmsNorm(const RmsNormArgs& args) override {
    RmsNormCpu(args, pool_);
    return absl::OkStatus();
  }

  absl::Status MatMul(const MatMulArgs& args) override {
    MatMulCpu(WithWorkspace(args), pool_);
    return absl::OkStatus();
  }

  absl::Status RopeAngles(const RopeAnglesArgs& args) override {
    RopeAnglesCpu(args, pool_);
    return absl::OkStatus();
  }

  absl::Status RopeAppend(const RopeAppendArgs& args) override {
    RopeAppendCpu(args, pool_);
    return absl::OkStatus();
  }

  absl::Status Attention(const AttentionArgs& args) override {
    RS_DCHECK(CheckAttentionArgs(args) == nullptr);
    AttentionCpu(args, pool_);
    return absl::OkStatus();
  }

  absl::Status SwiGlu(const SwiGluArgs& args) override {
    SwiGluCpu(args, pool_);
    return absl::OkStatus();
  }

  absl::Status MatMulSwiGlu(const MatMulArgs& product, const SwiGluArgs& activation) override {
    MatMulSwiGluCpu(WithWorkspace(product), activation, pool_);
    return absl::OkStatus();
  }

  absl::Status LayerNorm(const LayerNormArgs& args) override {
    LayerNormCpu(args, pool_);
    return absl::OkStatus();
  }

  absl::Status Activate(const ActivationArgs& args) override {
    ActivationCpu(args, pool_);
    return absl::OkStatus();
  }

  absl::Status Experts(const ExpertsArgs& args) override {
    ExpertsArgs experts = args;
    experts.matmul_workspace = matmul_workspace_.data();
    ExpertsCpu(experts, pool_);
    return absl::OkStatus();
  }

  absl::Status Softcap(const SoftcapArgs& args) override {
    SoftcapCpu(args, pool_);
    return absl::OkStatus();
  }

  absl::Status Sample(const SampleArgs& args) override {
    pool_.ParallelFor(static_cast<int64_t>(args.rows.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const SampleRow& row = args.rows[static_cast<size_t>(i)];
        args.results[static_cast<size_t>(i)] = SampleLogits(
            args.logits + int64_t{row.logits_row} * args.vocab_size, args.vocab_size, row);
      }
    });
    return absl::OkStatus();
  }

  absl::Status EndStep() override { return absl::OkStatus(); }

  absl::Status AwaitStep() override { return absl::OkStatus(); }

  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  MatMulArgs WithWorkspace(MatMulArgs args) {
    args.workspace = matmul_workspace_.data();
    return args;
  }

  ThreadPool pool_;
  Buffer matmul_workspace_;  // may be empty
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(int32_t num_threads) {
  if (num_threads < 0 || num_threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        fmt::format("num_threads: {} is not in [0, {}]", num_threads, kMaxThreads));
  }
  return std::make_unique<CpuBackend>(num_threads == 0 ? UsableCpus() : num_threads);
}

}  // namespace ringserve
