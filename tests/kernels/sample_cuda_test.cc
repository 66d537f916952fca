// The sampler on CUDA against the host's.
#include "kernels/sample_cuda.h"

#include <cmath>
#include <limits>
#include <vector>

#include "engine/sample/sampler.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/device_memory.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Batch {
  std::vector<float> logits;
  int32_t vocab_size = 0;
  std::vector<cuda::SampleCudaRow> rows;
  std::vector<int32_t> feedback = std::vector<int32_t>(8, -7);
};

std::vector<cuda::SampleCudaResult> Run(Batch& batch) {
  const auto num_rows = static_cast<int32_t>(batch.rows.size());
  const DeviceMemory logits(batch.logits);
  const DeviceMemory rows(batch.rows);
  const DeviceMemory results(batch.rows.size() * sizeof(cuda::SampleCudaResult));
  const DeviceMemory feedback(batch.feedback);
  const DeviceMemory workspace(cuda::SampleWorkspaceBytes(num_rows, batch.vocab_size));
  workspace.Fill(0xff);
  results.Fill(0xff);
  CheckCuda(cuda::LaunchSample({.logits = logits.as<float>(),
                                .vocab_size = batch.vocab_size,
                                .rows = rows.as<cuda::SampleCudaRow>(),
                                .num_rows = num_rows,
                                .results = results.as<cuda::SampleCudaResult>(),
                                .feedback = feedback.as<int32_t>(),
                                .workspace = workspace.as()},
                               nullptr),
            "LaunchSample");
  CheckCuda(cudaDeviceSynchronize(), "sample");
  batch.feedback = feedback.Download<int32_t>();
  return results.Download<cuda::SampleCudaResult>();
}

SamplingParams Params(const cuda::SampleCudaRow& row) {
  SamplingParams params;
  params.temperature = row.temperature;
  params.top_k = row.top_k;
  params.top_p = row.top_p;
  params.min_p = row.min_p;
  params.seed = row.seed;
  return params;
}

}  // namespace

TEST_CASE("the device chooses the host's tokens", "[cuda][sample]") {
  Random random(17);
  for (const int32_t vocab_size : {5, 1000, 4097, 128256}) {
    for (const float spread : {0.05F, 1.0F, 5.0F}) {
      Batch batch;
      batch.vocab_size = vocab_size;
      constexpr int32_t kLogitRows = 3;
      batch.logits = random.NormalVector(int64_t{kLogitRows} * vocab_size, spread);
      // Ties, at the top and elsewhere; a token that cannot be.
      batch.logits[0] = batch.logits[3] = batch.logits[2] = 4 * spread;
      batch.logits[4] = -kInf;
      const auto add = [&](float temperature, int32_t top_k, float top_p, float min_p) {
        cuda::SampleCudaRow row;
        row.position = random.Int(0, int64_t{1} << 40);
        row.seed = random.Bits();
        row.logits_row = static_cast<int32_t>(batch.rows.size()) % kLogitRows;
        row.temperature = temperature;
        row.top_k = top_k;
        row.top_p = top_p;
        row.min_p = min_p;
        batch.rows.push_back(row);
      };
      add(0, 0, 1, 0);
      add(0, 40, 0.5F, 0.1F);
      for (const float temperature : {0.3F, 1.0F, 1.7F}) {
        add(temperature, 0, 1, 0);
        add(temperature, 1, 1, 0);
        add(temperature, 40, 1, 0);
        add(temperature, 3000, 1, 0);
        add(temperature, 0, 0.3F, 0);
        add(temperature, 0, 0.95F, 0);
        add(temperature, 50, 0.9F, 0);
        add(temperature, 0, 1, 0.05F);
        add(temperature, 20, 0.8F, 0.2F);
      }
      for (cuda::SampleCudaRow& row : batch.rows) {
        row.top_k = row.top_k > vocab_size ? 0 : row.top_k;
      }
      const std::vector<cuda::SampleCudaResult> got = Run(batch);
      for (size_t i = 0; i < batch.rows.size(); ++i) {
        const cuda::SampleCudaRow& row = batch.rows[i];
        const SamplingParams params = Params(row);
        const float* logits = batch.logits.data() + int64_t{row.logits_row} * vocab_size;
        const ScoredToken expected =
            SampleLogits(logits, vocab_size, {.position = row.position, .params = &params});
        INFO("vocab " << vocab_size << " spread " << spread << " temperature " << row.temperature
                      << " top_k " << row.top_k << " top_p " << row.top_p << " min_p "
                      << row.min_p);
        CHECK(got[i].token_id == expected.token.token_id);
        CHECK(std::abs(got[i].logprob - expected.token.logprob) <=
              2e-6F * (1 + std::abs(expected.token.logprob)));
      }
      // A row alone gives the bits it gives in company.
      Batch alone = batch;
      alone.rows = {batch.rows[7]};
      CHECK(Run(alone)[0].token_id == got[7].token_id);
      CHECK(Run(alone)[0].logprob == got[7].logprob);
    }
  }
}

TEST_CASE("the device scores forced tokens, feeds back, and knows what it cannot choose from",
          "[cuda][sample]") {
  Random random(19);
  Batch batch;
  batch.vocab_size = 9000;
  batch.logits = random.NormalVector(4 * 9000);
  batch.logits[9000 + 5000] = std::numeric_limits<float>::quiet_NaN();
  batch.logits[2 * 9000 + 8999] = kInf;
  for (int32_t i = 0; i < 9000; ++i) {
    batch.logits[static_cast<size_t>(3 * 9000 + i)] = -kInf;
  }
  for (int32_t i = 0; i < 4; ++i) {
    batch.rows.push_back({.logits_row = i, .feedback_slot = i + 1, .temperature = 1});
  }
  batch.rows.push_back({.logits_row = 0, .forced_token = 77});
  const std::vector<cuda::SampleCudaResult> got = Run(batch);
  const SamplingParams params = Params(batch.rows[0]);
  const ScoredToken first = SampleLogits(batch.logits.data(), 9000, {.params = &params});
  const ScoredToken forced = SampleLogits(batch.logits.data(), 9000, {.forced_token = 77});
  CHECK(got[0].token_id == first.token.token_id);
  for (size_t i = 1; i < 4; ++i) {
    CHECK(got[i].token_id == -1);
    CHECK(got[i].logprob == 0);
  }
  CHECK(got[4].token_id == 77);
  CHECK(std::abs(got[4].logprob - forced.token.logprob) < 1e-5F);
  CHECK(batch.feedback == std::vector<int32_t>{-7, first.token.token_id, -1, -1, -1, -7, -7, -7});
}

}  // namespace ringserve
