#include "tests/bench/bench_steps.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
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
      RETURN_IF_ERROR(Decode(load));
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

  static absl::Status StepUntil(Rig& rig, int64_t tokens) {
    while (rig.sink.tokens() < tokens && rig.sink.status().ok()) {
      if (!rig.loop->Step()) {
        return absl::InternalError("the engine has nothing to do");
      }
    }
    return rig.sink.status();
  }

  absl::Status Decode(const StepsBenchOptions::Load& load) {
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
    RETURN_IF_ERROR(StepUntil(*rig, before));
    const int64_t first = rig->sink.tokens();
    const int64_t steps_before = rig->loop->load().steps;
    const auto started = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(StepUntil(*rig,
                              std::min(first + int64_t{load.batch} * options_.decode_len,
                                       int64_t{load.batch} * (max_tokens - 8))));
    const double seconds = SecondsSince(started);
    const auto tokens = static_cast<double>(rig->sink.tokens() - first);
    const auto steps = static_cast<double>(rig->loop->load().steps - steps_before);
    const double rate = tokens / seconds;
    const double roof =
        load.batch / RoofSeconds(load.batch, load.context + options_.decode_len / 2);
    std::printf("  decode %3d x %5d: %9.1f tokens/s, roof %9.1f: %5.1f %%; %.3f ms a step\n",
                load.batch,
                load.context,
                rate,
                roof,
                100 * rate / roof,
                1e3 * seconds / steps);
    std::fflush(stdout);
    return absl::OkStatus();
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
