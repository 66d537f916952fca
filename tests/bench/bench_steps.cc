#include "tests/bench/bench_steps.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "engine/backend/make_backend.h"
#include "engine/engine_loop.h"
#include "engine/memory_plan.h"
#include "engine/model/weights.h"
#include "tests/bench/bench_shape.h"
#include "tests/bench/ceiling_cuda.h"

namespace ringserve {
namespace {

constexpr int32_t kBlockSize = 64;
constexpr int32_t kPrefillRows = 8192;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class CountingSink final : public EventSink {
 public:
  void Publish(std::span<TokenEvent> events) override {
    for (const TokenEvent& event : events) {
      tokens_ += std::holds_alternative<SampledTokenEvent>(event.event) ? 1 : 0;
      if (const auto* failed = std::get_if<FailedEvent>(&event.event)) {
        status_ = failed->status;
      }
    }
  }

  int64_t tokens() const { return tokens_; }

  const absl::Status& status() const { return status_; }

 private:
  int64_t tokens_ = 0;
  absl::Status status_;
};

class StepsBench {
 public:
  explicit StepsBench(const StepsBenchOptions& options) : options_(options) {}

  absl::Status Run() {
    ASSIGN_OR_RETURN(model_, ParseShape(options_.shape));
    ASSIGN_OR_RETURN(backend_, MakeBackend(DevicePolicy::kCuda, 0));
    RETURN_IF_ERROR(backend_->CheckModel(model_, DType::kBf16));
    read_ = MeasureDeviceRead();
    product_ = MeasureDeviceProduct();
    std::printf("model %s bf16, %s\n", options_.shape.c_str(), backend_->info().name.c_str());
    std::printf("  ceilings: read %.2f TB/s, bf16 product %.0f TFLOP/s, empty kernel %.2f us\n",
                read_ * 1e-12,
                product_ * 1e-12,
                MeasureLaunch(300) * 1e6);
    const auto started = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(weights_, Weights::Random(model_, DType::kBf16, 1, *backend_, {}));
    std::printf("  %.1f GB of random weights in %.1f s\n",
                static_cast<double>(Weights::SlabBytes(model_, DType::kBf16, *backend_)) * 1e-9,
                SecondsSince(started));
    if (options_.prefill_len > 0) {
      RETURN_IF_ERROR(Prefill());
    }
    for (const StepsBenchOptions::Load& load : options_.loads) {
      RETURN_IF_ERROR(options_.spill ? Spill(load) : Decode(load));
    }
    return absl::OkStatus();
  }

 private:
  // An engine without its thread.
  struct Rig {
    EngineConfig config;
    MemoryPlan plan;
    Buffer pool;
    std::unique_ptr<Model> model;
    CountingSink sink;
    std::unique_ptr<EngineLoop> loop;
  };

  absl::StatusOr<std::unique_ptr<Rig>> MakeRig(int32_t batch, int64_t context) {
    auto rig = std::make_unique<Rig>();
    EngineConfig& config = rig->config;
    config.rings = {.buffer_size = RoundUp<int64_t>(context, kBlockSize), .block_size = kBlockSize};
    config.attention = {.tile_size = kBlockSize};
    config.scheduler = {.prefill_size = kPrefillRows, .max_batch = batch, .max_queue = batch};
    model_.max_positions = config.rings.buffer_size;
    ASSIGN_OR_RETURN(rig->plan, PlanMemory(config, model_, DType::kBf16, *backend_));
    ASSIGN_OR_RETURN(
        rig->pool,
        backend_->Allocate(static_cast<size_t>(rig->plan.device_kv_bytes()), MemoryKind::kDevice));
    ASSIGN_OR_RETURN(
        rig->model,
        Model::Create(
            model_, *weights_, MakeStepLimits(config, model_, backend_->info()), *backend_));
    EngineLoop::Parts parts;
    parts.runner = {.backend = backend_.get(),
                    .model = rig->model.get(),
                    .kv_pool = rig->pool.data(),
                    .kv = rig->plan.kv,
                    .tiles = MakeTileOptions(config, model_, backend_->info()),
                    .vocab_size = model_.vocab_size};
    parts.shape = MakeSessionShape(config, model_);
    parts.scheduler = config.scheduler;
    parts.device_blocks = static_cast<int32_t>(rig->plan.device_blocks);
    rig->loop = std::make_unique<EngineLoop>(parts, rig->sink);
    return rig;
  }

  absl::Status Submit(Rig& rig, int32_t count, int32_t prompt_len, int32_t max_tokens) {
    for (int32_t i = 0; i < count; ++i) {
      GenerateRequest request;
      request.request_id = static_cast<uint64_t>(next_request_++);
      for (int32_t j = 0; j < prompt_len; ++j) {
        request.prompt.push_back((i * 31 + j * 7919 + 13) % model_.vocab_size);
      }
      request.sampling.temperature = 0;
      request.stopping.max_tokens = max_tokens;
      request.stopping.ignore_eos = true;
      RETURN_IF_ERROR(rig.loop->Submit(std::move(request)));
    }
    return absl::OkStatus();
  }

  static absl::Status StepUntil(Rig& rig,
                                int64_t tokens,
                                const std::function<absl::Status()>& before_step = nullptr) {
    while (rig.sink.tokens() < tokens && rig.sink.status().ok()) {
      if (before_step) {
        RETURN_IF_ERROR(before_step());
      }
      if (!rig.loop->Step()) {
        return absl::InternalError("the engine has nothing to do");
      }
    }
    return rig.sink.status();
  }

  struct Speed {
    double tokens_per_second = 0;
    double step_seconds = 0;
  };

  // Reads all prompts, decodes a while, then times the decoding of decode_len tokens a sequence.
  absl::StatusOr<Speed> TimeDecode(const StepsBenchOptions::Load& load,
                                   const std::function<absl::Status()>& before_step) {
    const int32_t warm = 16;
    const int32_t max_tokens = warm + options_.decode_len + 8;
    ASSIGN_OR_RETURN(const auto rig, MakeRig(load.batch, load.context + max_tokens));
    RETURN_IF_ERROR(Submit(*rig, load.batch, load.context, max_tokens));
    // Prompts take several steps, so the first sequences are ahead of the last.
    while (rig->loop->load().prompt_tokens < int64_t{load.batch} * load.context) {
      rig->loop->Step();
      RETURN_IF_ERROR(rig->sink.status());
    }
    const int64_t before = rig->sink.tokens() + int64_t{warm} * load.batch / 2;
    RETURN_IF_ERROR(StepUntil(*rig, before, before_step));
    const int64_t first = rig->sink.tokens();
    const int64_t steps_before = rig->loop->load().steps;
    const auto started = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(StepUntil(*rig,
                              std::min(first + int64_t{load.batch} * options_.decode_len,
                                       int64_t{load.batch} * (max_tokens - 8)),
                              before_step));
    const double seconds = SecondsSince(started);
    const auto steps = static_cast<double>(rig->loop->load().steps - steps_before);
    return Speed{static_cast<double>(rig->sink.tokens() - first) / seconds, seconds / steps};
  }

  absl::Status Decode(const StepsBenchOptions::Load& load) {
    ASSIGN_OR_RETURN(const Speed speed, TimeDecode(load, nullptr));
    const double roof =
        load.batch / RoofSeconds(load.batch, load.context + options_.decode_len / 2);
    std::printf("  decode %3d x %5d: %9.1f tokens/s, roof %9.1f: %5.1f %%; %.3f ms a step\n",
                load.batch,
                load.context,
                speed.tokens_per_second,
                roof,
                100 * speed.tokens_per_second / roof,
                1e3 * speed.step_seconds);
    std::fflush(stdout);
    return absl::OkStatus();
  }

  // Blocks of the model on their way between device and pinned memory.
  struct Moving {
    int64_t block_bytes = 0;
    int64_t num_blocks = 0;  // of each buffer
    Buffer device;           // num_blocks to be read, as many to be written
    Buffer pinned;
    int64_t next = 0;

    absl::Status Move(Backend& backend, bool to_host, bool to_device) {
      const int64_t at = next++ % num_blocks * block_bytes;
      const int64_t written = num_blocks * block_bytes + at;
      const auto bytes = static_cast<size_t>(block_bytes);
      if (to_host) {
        RETURN_IF_ERROR(backend.Copy(pinned.data() + written, device.data() + at, bytes));
      }
      return to_device ? backend.Copy(device.data() + written, pinned.data() + at, bytes)
                       : absl::OkStatus();
    }
  };

  absl::StatusOr<double> MoveRate(Moving& moving, bool to_host, bool to_device) {
    double best = 0;
    for (int32_t round = 0; round < 3; ++round) {
      const auto started = std::chrono::steady_clock::now();
      for (int64_t i = 0; i < moving.num_blocks; ++i) {
        RETURN_IF_ERROR(moving.Move(*backend_, to_host, to_device));
      }
      RETURN_IF_ERROR(backend_->Synchronize());
      const auto bytes = static_cast<double>(moving.num_blocks * moving.block_bytes);
      best = std::max(best, bytes * (to_host && to_device ? 2 : 1) / SecondsSince(started));
    }
    return best;
  }

  absl::Status Spill(const StepsBenchOptions::Load& load) {
    Moving moving;
    moving.block_bytes =
        MakeKvLayout({.block_size = kBlockSize}, model_, DType::kBf16).block_bytes();
    moving.num_blocks = std::max<int64_t>(2, (int64_t{2} << 30) / moving.block_bytes);
    const auto bytes = static_cast<size_t>(2 * moving.num_blocks * moving.block_bytes);
    ASSIGN_OR_RETURN(moving.device, backend_->Allocate(bytes, MemoryKind::kDevice));
    ASSIGN_OR_RETURN(moving.pinned, backend_->Allocate(bytes, MemoryKind::kPinned));
    const CopyCeilings most = MeasurePinnedCopies();
    ASSIGN_OR_RETURN(const double to_host, MoveRate(moving, true, false));
    ASSIGN_OR_RETURN(const double to_device, MoveRate(moving, false, true));
    ASSIGN_OR_RETURN(const double both, MoveRate(moving, true, true));
    std::printf(
        "  blocks of %.1f MiB, GB/s of what copies of 64 MiB reach: to the host %.1f of "
        "%.1f (%.1f %%), back %.1f of %.1f (%.1f %%), both at once %.1f of %.1f (%.1f "
        "%%)\n",
        static_cast<double>(moving.block_bytes) / (1 << 20),
        to_host * 1e-9,
        most.to_host * 1e-9,
        100 * to_host / most.to_host,
        to_device * 1e-9,
        most.to_device * 1e-9,
        100 * to_device / most.to_device,
        both * 1e-9,
        most.both * 1e-9,
        100 * both / most.both);
    std::fflush(stdout);
    ASSIGN_OR_RETURN(const Speed alone, TimeDecode(load, nullptr));
    // As many blocks each way before each step as move while it runs.
    const auto each_step = std::max<int64_t>(
        1, std::llround(alone.step_seconds * both / 2 / static_cast<double>(moving.block_bytes)));
    ASSIGN_OR_RETURN(const Speed beside, TimeDecode(load, [&] {
                       for (int64_t i = 0; i < each_step; ++i) {
                         RETURN_IF_ERROR(moving.Move(*backend_, true, true));
                       }
                       return absl::OkStatus();
                     }));
    std::printf(
        "  decode %d x %d: %.1f tokens/s alone, %.1f with %ld blocks each way a step (%.1f "
        "GB/s): %.1f %%\n",
        load.batch,
        load.context,
        alone.tokens_per_second,
        beside.tokens_per_second,
        static_cast<long>(each_step),
        2e-9 * static_cast<double>(each_step * moving.block_bytes) / beside.step_seconds,
        100 * beside.tokens_per_second / alone.tokens_per_second);
    std::fflush(stdout);
    return backend_->Synchronize();
  }

  absl::Status Prefill() {
    const int32_t length = options_.prefill_len;
    ASSIGN_OR_RETURN(const auto rig, MakeRig(1, length + 64));
    double best = 0;
    for (int32_t round = 0; round < 3; ++round) {
      RETURN_IF_ERROR(Submit(*rig, 1, length, 1));
      const auto started = std::chrono::steady_clock::now();
      RETURN_IF_ERROR(StepUntil(*rig, round + 1));
      const double seconds = SecondsSince(started);
      best = best == 0 ? seconds : std::min(best, seconds);
    }
    const double flops =
        2.0 * length * LayerWeights() + 2.0 * HeadWeights() +
        2.0 * length * (length + 1.0) * model_.num_heads * model_.head_dim * model_.num_layers;
    std::printf("  prefill %d: %.1f ms, %.0f tokens/s, %.0f TFLOP/s, %.1f %% of the product\n",
                length,
                best * 1e3,
                length / best,
                flops / best * 1e-12,
                100 * flops / best / product_);
    std::fflush(stdout);
    return absl::OkStatus();
  }

  double LayerWeights() const {
    const double q_dim = 1.0 * model_.num_heads * model_.head_dim;
    const double kv_dim = 1.0 * model_.num_kv_heads * model_.head_dim;
    return model_.num_layers *
           (1.0 * model_.hidden_dim * (2 * q_dim + 2 * kv_dim + 3.0 * model_.ffn_dim));
  }

  double HeadWeights() const { return 1.0 * model_.hidden_dim * model_.vocab_size; }

  double RoofSeconds(int32_t batch, int32_t context) const {
    const double weights = LayerWeights() + HeadWeights();
    const double kv =
        4.0 * batch * context * model_.num_kv_heads * model_.head_dim * model_.num_layers;
    return std::max(2 * weights / read_, 2 * weights * batch / product_) + kv / read_;
  }

  const StepsBenchOptions options_;
  ModelConfig model_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Weights> weights_;
  double read_ = 0;
  double product_ = 0;
  int64_t next_request_ = 1;
};

}  // namespace

absl::Status BenchSteps(const StepsBenchOptions& options) {
  return StepsBench(options).Run();
}

}  // namespace ringserve
