#include "engine/backend/backend_cuda.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <cuda_runtime.h>
#include <fmt/format.h>

#include "engine/backend/cuda_chain.h"
#include "engine/backend/cuda_copies.h"
#include "engine/backend/cuda_device.h"
#include "engine/backend/cuda_graph.h"
#include "engine/backend/cuda_loader.h"
#include "engine/backend/cuda_memory.h"
#include "engine/backend/cuda_resources.h"
#include "engine/backend/cuda_sampling.h"
#include "engine/backend/cuda_staging.h"
#include "engine/backend/cuda_tiles.h"
#include "engine/base/check.h"
#include "engine/sample/sampler.h"
#include "kernels/activation_cuda.h"
#include "kernels/attention_cuda.h"
#include "kernels/bias_cuda.h"
#include "kernels/cpu_features.h"
#include "kernels/embed_cuda.h"
#include "kernels/layernorm_cuda.h"
#include "kernels/matmul_cuda.h"
#include "kernels/moe_cuda.h"
#include "kernels/rmsnorm_cuda.h"
#include "kernels/rope_cuda.h"
#include "kernels/sample_cuda.h"
#include "kernels/softcap_cuda.h"
#include "kernels/swiglu_cuda.h"
#include "kernels/thread_pool.h"

namespace ringserve {
namespace {

constexpr int32_t kMaxHostThreads = 16;
constexpr size_t kLargeCopyBytes = size_t{64} << 10;  // worth ordering a stream of its own
// Llama-3-8B's shape on an H200, tokens/s at 1 x 1k, 32 x 1k, 32 x 8k, 256 x 1k: 221, 5654, 2504,
// 14912; with 512 keys 224, 5265, 2442, 13435; with 1024 220, 5390, 2436, 13752.
constexpr int64_t kSplitSize = 2048;

// Products and norms of few rows are held back in chain_, and a rotation in rope_, which attention
// may take along: every other op, and what ends or moves a step, launches them first.
class CudaBackend final : public Backend {
 public:
  CudaBackend(CudaDevice device, CudaStream stream, CudaCopies copies, int32_t num_threads)
      : device_(std::move(device)),
        stream_(std::move(stream)),
        copies_(std::move(copies)),
        pool_(num_threads) {}

  // What is under way uses memory that is about to be freed.
  ~CudaBackend() override { static_cast<void>(cudaDeviceSynchronize()); }

  BackendInfo info() const override {
    return {.device = "cuda",
            .name = device_.name,
            .kernels = device_.is_hopper() ? "sm_90a" : "sm_80",
            .num_workers = device_.num_multiprocessors,
            .worker = "multiprocessors",
            .split_size = kSplitSize,
            .row_major = true,
            .runs_f16 = true,
            .runs_ahead = true,
            .defers_norms = true,
            .serves_one_model = true};
  }

  absl::Status CheckModel(const ModelConfig& config, DType dtype) const override {
    return CheckCudaModel(config, dtype);
  }

  absl::Status CheckSteps(const StepLimits& /*limits*/) const override { return absl::OkStatus(); }

  BackendMemory StepMemory(const ModelConfig& config,
                           DType /*dtype*/,
                           const StepLimits& limits) const override {
    const CudaStepMemory memory = PlanCudaSteps(config, limits, device_.attention);
    return {.device_bytes = memory.device_bytes, .pinned_bytes = memory.pinned_bytes};
  }

  absl::Status PrepareSteps(const ModelConfig& config,
                            DType dtype,
                            const StepLimits& limits) override;

  absl::Status CheckMemory(const BackendMemory& wanted) const override {
    size_t free = 0;
    size_t total = 0;
    RETURN_IF_ERROR(FromCuda(cudaMemGetInfo(&free, &total), "asking for free memory"));
    return CheckDeviceMemory(static_cast<size_t>(wanted.device_bytes), free, total);
  }

  absl::StatusOr<Buffer> Allocate(size_t bytes, MemoryKind kind) override {
    return kind == MemoryKind::kDevice ? AllocateDeviceMemory(bytes) : AllocatePinnedMemory(bytes);
  }

  // Other host memory must not be copied in a graph, which runs later.
  absl::Status Copy(std::byte* to, const std::byte* from, size_t bytes) override {
    RETURN_IF_ERROR(LaunchHeld());
    RETURN_IF_ERROR(staging_.Flush(stream_));
    RETURN_IF_ERROR(graph_.Launch(stream_));
    if (bytes >= kLargeCopyBytes && CudaCopies::Fits(to, from)) {
      return copies_.Add(to, from, bytes, stream_);
    }
    copies_.Forget();
    if (copies_.is_busy()) {
      RETURN_IF_ERROR(copies_.Join(stream_, to, bytes));
      RETURN_IF_ERROR(copies_.Join(stream_, from, bytes));
    }
    return FromCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_.get()), "copy");
  }

  size_t MatrixBytes(int64_t rows, int64_t cols, DType dtype) const override {
    return static_cast<size_t>(RoundUp<int64_t>(rows * cols * DTypeBytes(dtype), 128));
  }

  absl::StatusOr<Matrix> PackMatrix(std::span<const HostTensor> parts,
                                    DType dtype,
                                    std::byte* to) override;

  absl::Status BeginStep(const StepTiles& tiles) override;
  absl::StatusOr<const std::byte*> Upload(const std::byte* from, size_t bytes) override;

  absl::Status Embed(const EmbedArgs& args) override {
    RETURN_IF_ERROR(LaunchHeld());
    RETURN_IF_ERROR(staging_.Flush(stream_));
    return FromCuda(cuda::LaunchEmbed(args, sampler_.ids_before(), stream_.get()), "embed");
  }

  absl::Status RmsNorm(const RmsNormArgs& args) override {
    RETURN_IF_ERROR(LaunchRope());
    ASSIGN_OR_RETURN(const bool taken, chain_.Take(args, stream_));
    if (taken) {
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(chain_.Launch(stream_));
    return FromCuda(cuda::LaunchRmsNorm(args, stream_.get()), "rmsnorm");
  }

  absl::Status MatMul(const MatMulArgs& args) override {
    RETURN_IF_ERROR(LaunchRope());
    ASSIGN_OR_RETURN(const bool taken, chain_.Take(args, stream_));
    if (taken) {
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(chain_.Launch(stream_));
    MatMulArgs product = args;
    product.bias = nullptr;
    RETURN_IF_ERROR(FromCuda(matmul_->Launch(product, stream_.get()), "matmul"));
    if (args.bias == nullptr) {
      return absl::OkStatus();
    }
    const auto size = static_cast<int32_t>(args.weight.rows);
    return FromCuda(cuda::LaunchBias({args.out, args.bias, args.num_rows, size}, stream_.get()),
                    "a product's bias");
  }

  absl::Status RopeAngles(const RopeAnglesArgs& args) override {
    RETURN_IF_ERROR(LaunchHeld());
    RETURN_IF_ERROR(staging_.Flush(stream_));
    return FromCuda(cuda::LaunchRopeAngles(args, stream_.get()), "rope angles");
  }

  absl::Status RopeAppend(const RopeAppendArgs& args) override {
    RETURN_IF_ERROR(LaunchHeld());
    RETURN_IF_ERROR(staging_.Flush(stream_));
    const bool appends = args.kv.layout.num_kv_heads > 0;
    if (appends && args.kv.layer == 0 && copies_.is_busy()) {
      for (const CudaTiles::Planned& planned : tiles_.pool_plans()) {
        RETURN_IF_ERROR(copies_.Join(stream_, args.kv, planned.tiles->entries, graph_));
      }
    }
    rope_ = args;
    return appends && args.num_heads > 0 ? absl::OkStatus() : LaunchRope();
  }

  absl::Status Attention(const AttentionArgs& args) override;

  absl::Status SwiGlu(const SwiGluArgs& args) override {
    RETURN_IF_ERROR(LaunchHeld());
    return FromCuda(cuda::LaunchSwiGlu(args, stream_.get()), "swiglu");
  }

  absl::Status MatMulSwiGlu(const MatMulArgs& product, const SwiGluArgs& activation) override {
    if (!matmul_->has_gated() || product.bias != nullptr || product.weight.rows % 16 != 0 ||
        product.weight.cols % 8 != 0 || activation.out_dtype != product.weight.dtype) {
      return Backend::MatMulSwiGlu(product, activation);
    }
    const cuda::GatedMatMulArgs args = {
        product.x, product.weight, activation.out, product.num_rows, product.row_scales};
    RETURN_IF_ERROR(LaunchRope());
    ASSIGN_OR_RETURN(const bool taken, chain_.Take(args, stream_));
    if (taken) {
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(chain_.Launch(stream_));
    return FromCuda(matmul_->LaunchGated(args, stream_.get()), "matmul and swiglu");
  }

  absl::Status LayerNorm(const LayerNormArgs& args) override {
    RETURN_IF_ERROR(LaunchHeld());
    return FromCuda(cuda::LaunchLayerNorm(args, stream_.get()), "layer norm");
  }

  absl::Status Activate(const ActivationArgs& args) override {
    RETURN_IF_ERROR(LaunchHeld());
    return FromCuda(cuda::LaunchActivation(args, stream_.get()), "activation");
  }

  absl::Status Experts(const ExpertsArgs& args) override {
    if (const char* problem = cuda::CheckExpertsCudaArgs(args); problem != nullptr) {
      return absl::InternalError(fmt::format("experts: {}", problem));
    }
    RETURN_IF_ERROR(LaunchHeld());
    std::byte* routes = device_memory_.data() + at_.routes;
    return FromCuda(cuda::LaunchExperts(args, routes, stream_.get()), "experts");
  }

  absl::Status Softcap(const SoftcapArgs& args) override {
    RETURN_IF_ERROR(LaunchHeld());
    return FromCuda(cuda::LaunchSoftcap(args, stream_.get()), "softcap");
  }

  absl::Status Sample(const SampleArgs& args) override {
    RETURN_IF_ERROR(LaunchHeld());
    return sampler_.Sample(args, {.staging = staging_, .graph = graph_, .stream = stream_});
  }

  absl::Status EndStep() override;
  absl::Status AwaitStep() override;
  absl::Status Synchronize() override;

 private:
  absl::Status LaunchRope() {
    if (!rope_.has_value()) {
      return absl::OkStatus();
    }
    const RopeAppendArgs args = *std::exchange(rope_, std::nullopt);
    return FromCuda(cuda::LaunchRopeAppend(args, stream_.get()), "rope and append");
  }

  // At most one of the two holds something.
  absl::Status LaunchHeld() {
    RETURN_IF_ERROR(LaunchRope());
    return chain_.Launch(stream_);
  }

  const CudaDevice device_;
  CudaStream stream_;
  CudaCopies copies_;
  ThreadPool pool_;
  std::optional<CudaLoader> loader_;  // until steps are prepared

  // What PrepareSteps sets up.
  Buffer device_memory_;
  Buffer pinned_memory_;
  CudaStepMemory at_;
  CudaStaging staging_;
  std::unique_ptr<cuda::MatMulDevice> matmul_;
  cuda::AttentionPlanShape plan_shape_;
  int64_t max_partials_ = 0;
  CudaSampler sampler_;

  // The step at hand.
  CudaGraph graph_;
  CudaChain chain_;
  std::optional<RopeAppendArgs> rope_;
  CudaTiles tiles_;
  std::deque<int32_t> ended_;  // slots of the steps to be awaited, oldest first
};

absl::Status CudaBackend::PrepareSteps(const ModelConfig& config,
                                       DType dtype,
                                       const StepLimits& limits) {
  RETURN_IF_ERROR(Synchronize());
  graph_.Clear();
  chain_ = {};
  loader_.reset();
  matmul_.reset();
  staging_ = {};
  device_memory_ = {};
  pinned_memory_ = {};
  at_ = PlanCudaSteps(config, limits, device_.attention);
  ASSIGN_OR_RETURN(device_memory_, AllocateDeviceMemory(static_cast<size_t>(at_.device_bytes)));
  ASSIGN_OR_RETURN(pinned_memory_, AllocatePinnedMemory(static_cast<size_t>(at_.pinned_bytes)));
  std::byte* device = device_memory_.data();
  ASSIGN_OR_RETURN(staging_, CudaStaging::Create(at_.staging, device, pinned_memory_.data()));
  sampler_ = CudaSampler({.workspace = device + at_.sample,
                          .feedback = reinterpret_cast<int32_t*>(device + at_.feedback),
                          .max_results = at_.staging.max_results,
                          .logits = reinterpret_cast<float*>(pinned_memory_.data() + at_.logits),
                          .ids = reinterpret_cast<int32_t*>(pinned_memory_.data() + at_.ids)},
                         pool_);
  max_partials_ = limits.max_partials;
  plan_shape_ = {.layout = {.block_size = limits.block_size,
                            .num_layers = config.num_layers,
                            .num_kv_heads = config.num_kv_heads,
                            .head_dim = config.head_dim,
                            .dtype = dtype},
                 .num_heads = config.num_heads};
  RETURN_IF_ERROR(
      FromCuda(cudaMemsetAsync(device + at_.attention,
                               0,
                               static_cast<size_t>(cuda::AttentionZeroedBytes(max_partials_)),
                               stream_.get()),
               "clearing the attention workspace"));
  RETURN_IF_ERROR(
      FromCuda(cudaMemsetAsync(device + at_.chain, 0, cuda::kChainCounterBytes, stream_.get()),
               "clearing the counters of chains"));
  if (device_.is_hopper()) {
    ASSIGN_OR_RETURN(chain_, CudaChain::Create(device_.index, device + at_.chain));
  }
  const auto kernels =
      device_.is_hopper() ? cuda::MatMulKernels::kBest : cuda::MatMulKernels::kPortable;
  RETURN_IF_ERROR(
      FromCuda(cuda::MatMulDevice::Create(device_.index, device + at_.matmul, matmul_, kernels),
               "preparing matrix products"));
  return Synchronize();
}

absl::StatusOr<Matrix> CudaBackend::PackMatrix(std::span<const HostTensor> parts,
                                               DType dtype,
                                               std::byte* to) {
  RS_CHECK(dtype == DType::kBf16 || dtype == DType::kF16);
  if (!loader_.has_value()) {
    ASSIGN_OR_RETURN(loader_, CudaLoader::Create(stream_, pool_));
  }
  Matrix matrix = {.data = to, .rows = 0, .cols = parts.front().cols, .dtype = dtype};
  for (const HostTensor& part : parts) {
    RETURN_IF_ERROR(loader_->Load(part, dtype, to + matrix.rows * matrix.cols * DTypeBytes(dtype)));
    matrix.rows += part.rows;
  }
  return matrix;
}

absl::Status CudaBackend::BeginStep(const StepTiles& tiles) {
  sampler_.BeginStep();
  RETURN_IF_ERROR(staging_.Begin());
  RETURN_IF_ERROR(tiles_.Begin(tiles, plan_shape_, staging_));
  copies_.Forget();
  const int64_t kind = tiles_.kind();
  return kind < 0 ? absl::OkStatus() : graph_.Begin(stream_, kind);
}

absl::StatusOr<const std::byte*> CudaBackend::Upload(const std::byte* from, size_t bytes) {
  ASSIGN_OR_RETURN(const CudaStaging::Place place, staging_.Take(bytes));
  if (bytes > 0) {
    std::memcpy(place.host, from, bytes);
  }
  return place.device;
}

absl::Status CudaBackend::Attention(const AttentionArgs& args) {
  const CudaTiles::Planned& planned = tiles_.Find(args.plan);
  RETURN_IF_ERROR(chain_.Launch(stream_));
  cuda::AttentionCudaArgs launch = {.plan = planned.view,
                                    .q = args.q,
                                    .kv = args.kv,
                                    .num_blocks = planned.num_blocks,
                                    .out = args.out,
                                    .q_stride = args.q_stride,
                                    .out_stride = args.out_stride,
                                    .num_rows = args.plan->num_rows,
                                    .num_heads = args.num_heads,
                                    .scale = args.scale,
                                    .softcap = args.softcap,
                                    .sink_logits = args.sink_logits,
                                    .angles = args.angles,
                                    .position_bias = args.position_bias,
                                    .bias_reach = args.bias_reach,
                                    .dtype = args.q_dtype,
                                    .workspace = device_memory_.data() + at_.attention,
                                    .max_partials = max_partials_};
  if (const char* problem = cuda::CheckAttentionCudaArgs(launch); problem != nullptr) {
    return absl::InternalError(fmt::format("attention: {}", problem));
  }
  const bool takes_rope =
      rope_.has_value() &&
      cuda::TakesRope(device_.attention, launch, *rope_, cuda::AttentionKernels::kBest);
  const std::optional<RopeAppendArgs> rope = takes_rope ? std::exchange(rope_, {}) : std::nullopt;
  launch.rope = takes_rope ? &*rope : nullptr;
  chain_.LeaveRoom(cuda::RowBlockBytes(device_.attention, launch));
  RETURN_IF_ERROR(LaunchRope());
  return FromCuda(cuda::LaunchAttention(
                      device_.attention, launch, cuda::AttentionKernels::kBest, stream_.get()),
                  "attention");
}

absl::Status CudaBackend::EndStep() {
  RETURN_IF_ERROR(LaunchHeld());
  RETURN_IF_ERROR(graph_.Launch(stream_));
  ended_.push_back(staging_.slot());
  return staging_.End(stream_);
}

absl::Status CudaBackend::AwaitStep() {
  if (ended_.empty()) {
    return absl::OkStatus();
  }
  const int32_t slot = ended_.front();
  ended_.pop_front();
  RETURN_IF_ERROR(staging_.Await(slot));
  sampler_.Deliver(slot);
  return absl::OkStatus();
}

absl::Status CudaBackend::Synchronize() {
  RETURN_IF_ERROR(LaunchHeld());
  RETURN_IF_ERROR(graph_.Launch(stream_));
  RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(stream_.get()), "a step"));
  RETURN_IF_ERROR(copies_.Await());
  ended_.clear();
  for (int32_t slot = 0; slot < CudaStaging::kNumSlots; ++slot) {
    sampler_.Deliver(slot);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(int32_t num_threads, CudaKernels kernels) {
  ASSIGN_OR_RETURN(CudaDevice device, FindCudaDevice());
  device.attention.hopper = device.is_hopper() && kernels == CudaKernels::kBest;
  ASSIGN_OR_RETURN(CudaStream stream, CudaStream::Create());
  ASSIGN_OR_RETURN(CudaCopies copies, CudaCopies::Create());
  const int32_t threads = num_threads == 0 ? std::min(UsableCpus(), kMaxHostThreads) : num_threads;
  return std::make_unique<CudaBackend>(
      std::move(device), std::move(stream), std::move(copies), threads);
}

}  // namespace ringserve
