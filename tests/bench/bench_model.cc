#include "tests/bench/bench_model.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "engine/backend/backend_cpu.h"
#include "engine/model/weights.h"
#include "kernels/thread_pool.h"
#include "tests/bench/bench_kernels.h"
#include "tests/bench/bench_shape.h"
#include "tests/bench/ceiling.h"
#include "tests/support/model_runner.h"

namespace ringserve {
namespace {

constexpr int32_t kBlockSize = 64;
constexpr int64_t kCeilingBytes = int64_t{512} << 20;  // well past every cache

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Everything that one shape needs, and the ceilings beside it.
class ModelBench {
 public:
  static absl::StatusOr<std::unique_ptr<ModelBench>> Create(const ModelBenchOptions& options) {
    auto bench = std::unique_ptr<ModelBench>(new ModelBench(options));
    ASSIGN_OR_RETURN(bench->config_, ParseShape(options.shape));
    bench->dtype_ = options.dtype == "f32" ? DType::kF32 : DType::kBf16;
    ASSIGN_OR_RETURN(bench->backend_, MakeCpuBackend(options.num_threads));
    RETURN_IF_ERROR(bench->backend_->CheckModel(bench->config_, bench->dtype_));
    ASSIGN_OR_RETURN(bench->weights_,
                     Weights::Random(bench->config_, bench->dtype_, 1, *bench->backend_, {}));
    bench->pool_ = std::make_unique<ThreadPool>(bench->backend_->info().num_workers);
    return bench;
  }

  absl::Status Run() {
    const BackendInfo info = backend_->info();
    std::printf("model %s %s, %s, %s, %d threads, prompt %d, decode %d\n",
                options_.shape.c_str(),
                DTypeName(dtype_),
                info.name.c_str(),
                info.kernels.c_str(),
                info.num_workers,
                options_.prompt_len,
                options_.decode_len);
    BenchSeries prefill{"prefill", "GFLOP/s", {}, {}};
    BenchSeries decode{"decode, batch 1", "GB/s", {}, {}};
    std::vector<double> prefill_rate;
    std::vector<double> decode_rate;
    for (int32_t round = 0; round < options_.rounds; ++round) {
      ASSIGN_OR_RETURN(const auto runner, NewRunner());
      prefill.ceiling.push_back(MeasureProduct());
      ASSIGN_OR_RETURN(const double prefill_seconds, Feed(*runner, options_.prompt_len, false));
      prefill.speed.push_back(PrefillFlops() / prefill_seconds / 1e9);
      prefill_rate.push_back(options_.prompt_len / prefill_seconds);

      const double before = ReadGbps(ceiling_buffer_, *pool_);
      ASSIGN_OR_RETURN(const double decode_seconds, Feed(*runner, options_.decode_len, true));
      decode.ceiling.push_back(std::max(before, ReadGbps(ceiling_buffer_, *pool_)));
      decode.speed.push_back(DecodeBytes() / decode_seconds / 1e9);
      decode_rate.push_back(options_.decode_len / decode_seconds);
    }
    std::printf("  %s\n    %.1f tokens/s\n", FormatSeries(prefill).c_str(), Median(prefill_rate));
    std::printf("  %s\n    %.2f tokens/s\n", FormatSeries(decode).c_str(), Median(decode_rate));
    return absl::OkStatus();
  }

 private:
  explicit ModelBench(const ModelBenchOptions& options)
      : options_(options), ceiling_buffer_(kCeilingBytes) {
    std::fill_n(ceiling_buffer_.data(), kCeilingBytes, std::byte{1});
  }

  absl::StatusOr<std::unique_ptr<ModelRunner>> NewRunner() {
    const int64_t context = RoundUp<int64_t>(options_.prompt_len + options_.decode_len, kBlockSize);
    const SessionShape shape = {
        .buffer_size = context, .block_size = kBlockSize, .feedback_size = context};
    return ModelRunner::Create(
        config_, *weights_, shape, std::max(options_.prompt_len, 1), {}, *backend_);
  }

  // Seconds for `count` tokens: one by one, or as one prompt.
  absl::StatusOr<double> Feed(ModelRunner& runner, int32_t count, bool one_by_one) {
    std::vector<int32_t> token_ids;
    token_ids.reserve(static_cast<size_t>(count));
    for (int32_t i = 0; i < count; ++i) {
      token_ids.push_back((i * 7919 + 13) % config_.vocab_size);
    }
    const auto start = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(const auto logits,
                     runner.Feed(token_ids, one_by_one ? 1 : count, ModelRunner::Wanted::kLastRow));
    const double seconds = SecondsSince(start);
    if (!std::all_of(logits.begin(), logits.end(), [](float x) { return x - x == 0; })) {
      return absl::InternalError("the model computed a number that is not finite");
    }
    return seconds;
  }

  double MeasureProduct() {
    const auto start = std::chrono::steady_clock::now();
    return MultiplyInRegisters(dtype_, *pool_) / SecondsSince(start) / 1e9;
  }

  // Weights of the matrices that every token passes, the output head apart.
  double LayerWeights() const {
    const double q_dim = double{1} * config_.num_heads * config_.head_dim;
    const double kv_dim = double{1} * config_.num_kv_heads * config_.head_dim;
    return config_.num_layers *
           (double{1} * config_.hidden_dim * (2 * q_dim + 2 * kv_dim + 3.0 * config_.ffn_dim));
  }

  double HeadWeights() const { return double{1} * config_.hidden_dim * config_.vocab_size; }

  // Products of all rows, the head of the last one, attention over the causal half.
  double PrefillFlops() const {
    const double rows = options_.prompt_len;
    const double attention = 2.0 * rows * (rows + 1) * config_.num_heads * config_.head_dim;
    return 2 * (rows * LayerWeights() + HeadWeights()) + config_.num_layers * attention;
  }

  // Weights once, and the keys and values of the context at its middle.
  double DecodeBytes() const {
    const double context = options_.prompt_len + (options_.decode_len + 1) / 2.0;
    const double kv = 2.0 * context * config_.num_kv_heads * config_.head_dim * config_.num_layers;
    return options_.decode_len * (LayerWeights() + HeadWeights() + kv) * DTypeBytes(dtype_);
  }

  const ModelBenchOptions options_;
  HugeBuffer ceiling_buffer_;
  ModelConfig config_;
  DType dtype_ = DType::kBf16;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<ThreadPool> pool_;  // of the ceilings; idle while the model runs
};

}  // namespace

absl::Status BenchModel(const ModelBenchOptions& options) {
  ASSIGN_OR_RETURN(const auto bench, ModelBench::Create(options));
  return bench->Run();
}

}  // namespace ringserve
