// What the CUDA backend refuses, with the sentence that it says; needs no GPU.
#include "engine/backend/backend_cuda.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/cuda_device.h"
#include "engine/backend/cuda_memory.h"
#include "engine/backend/cuda_sampling.h"
#include "engine/backend/make_backend.h"
#include "tests/support/catch.h"

namespace ringserve {
namespace {

TEST_CASE("a machine that cannot run CUDA is told why") {
  const auto message = [](const absl::Status& status) { return std::string(status.message()); };
  CHECK(CheckCudaDevice(13000, 13000, 1, 9, 0).ok());
  CHECK(CheckCudaDevice(13020, 13000, 1, 8, 0).ok());
  CHECK(CheckCudaDevice(14000, 13000, 1, 10, 3).ok());
  CHECK(message(CheckCudaDevice(0, 13000, 0, 0, 0)) == "this machine has no NVIDIA driver");
  CHECK(message(CheckCudaDevice(12080, 13000, 1, 9, 0)) ==
        "the NVIDIA driver is too old: it serves CUDA 12.8, this build needs 13.0");
  CHECK(message(CheckCudaDevice(13000, 13000, 0, 0, 0)) ==
        "CUDA shows no device (is there a GPU, and does CUDA_VISIBLE_DEVICES name it?)");
  CHECK(message(CheckCudaDevice(13000, 13000, 1, 7, 5)) ==
        "the GPU has compute capability 7.5; the kernels need 8.0 or later");
  CHECK(CheckCudaDevice(13000, 13000, 1, 7, 5).code() == absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("a plan that does not fit is refused with the numbers") {
  CHECK(CheckDeviceMemory(1000, 1000, 4000).ok());
  const absl::Status status = CheckDeviceMemory(3'221'225'472, 1'073'741'824, 2'147'483'648);
  CHECK(status.code() == absl::StatusCode::kResourceExhausted);
  CHECK(std::string(status.message()) ==
        "the plan needs 3221225472 bytes (3.0 GiB) of device memory, but of the GPU's 2147483648 "
        "(2.0 GiB) only 1073741824 (1.0 GiB) are free");
}

TEST_CASE("models that the kernels cannot run are refused") {
  ModelConfig config;
  config.hidden_dim = 256;
  config.ffn_dim = 700;
  for (const int32_t head_dim : {8, 40, 64, 96, 128, 256}) {
    config.head_dim = head_dim;
    CHECK(CheckCudaModel(config, DType::kBf16).ok());
  }
  const auto message = [&](const auto& change, DType dtype = DType::kBf16) {
    ModelConfig changed = config;
    change(changed);
    return std::string(CheckCudaModel(changed, dtype).message());
  };
  CHECK(message([](ModelConfig&) {}, DType::kF32) ==
        "model.dtype: f32 does not run on device \"cuda\", only bf16 and f16; say \"bf16\", or "
        "device \"cpu\"");
  CHECK(message([](ModelConfig& c) { c.head_dim = 84; }) ==
        "config.json: head_dim: 84 is not a multiple of 8 in [8, 256]");
  CHECK(message([](ModelConfig& c) { c.hidden_dim = 260; }) ==
        "config.json: hidden_size: 260 is not a multiple of 8 in [8, 16384], as device \"cuda\" "
        "needs it");
  CHECK(message([](ModelConfig& c) { c.ffn_dim = 702; }) ==
        "config.json: intermediate_size: 702 is not a multiple of 4, as device \"cuda\" needs it");
  CHECK(message([](ModelConfig& c) {
          c.moe.num_experts = 4;
          c.moe.ffn_dim = 100;
        }) ==
        "config.json: the experts' intermediate size: 100 is not a multiple of 8, as device "
        "\"cuda\" needs it");
  CHECK(message([](ModelConfig& c) {
          c.moe.num_experts = 1025;
          c.moe.ffn_dim = 96;
        }) == "config.json: 1025 experts are more than the 1024 that run on device \"cuda\"");
}

TEST_CASE("auto runs everywhere, cuda only where there is a GPU") {
  REQUIRE(MakeBackend(DevicePolicy::kAuto, 1).ok());
  const auto cuda = MakeBackend(DevicePolicy::kCuda, 1);
  if (!cuda.ok()) {
    CHECK(cuda.status().code() == absl::StatusCode::kFailedPrecondition);
    CHECK(std::string(cuda.status().message()).rfind("device: \"cuda\": ", 0) == 0);
  } else {
    CHECK((*cuda)->info().device == "cuda");
    CHECK((*MakeBackend(DevicePolicy::kAuto, 1))->info().device == "cuda");
  }
}

TEST_CASE("copies beside the steps keep their order") {
  auto made = MakeBackend(DevicePolicy::kCuda, 1);
  if (!made.ok()) {
    WARN("no GPU: copies cannot be tried");
    return;
  }
  Backend& backend = **made;
  constexpr size_t kBlocks = 24;
  constexpr size_t kWords = size_t{1} << 18;  // of a block
  constexpr size_t kBytes = kWords * sizeof(uint32_t);
  const Buffer device = *backend.Allocate(kBlocks * kBytes, MemoryKind::kDevice);
  const Buffer pinned = *backend.Allocate(kBlocks * kBytes, MemoryKind::kPinned);
  const auto at = [&](size_t block) {
    return block < kBlocks ? device.data() + block * kBytes
                           : pinned.data() + (block - kBlocks) * kBytes;
  };
  std::vector<uint32_t> expected;
  std::vector<uint32_t> words(kWords);
  for (uint32_t block = 0; block < 2 * kBlocks; ++block) {
    std::fill(words.begin(), words.end(), block);
    REQUIRE(backend.Copy(at(block), reinterpret_cast<const std::byte*>(words.data()), kBytes).ok());
    REQUIRE(backend.Synchronize().ok());
    expected.push_back(block);
  }
  std::mt19937_64 random(3);
  for (int i = 0; i < 3000; ++i) {
    const size_t from = random() % (2 * kBlocks);
    const size_t to = random() % (2 * kBlocks);
    if (from != to) {
      REQUIRE(backend.Copy(at(to), at(from), kBytes).ok());
      expected[to] = expected[from];
    }
  }
  for (size_t block = 0; block < 2 * kBlocks; ++block) {
    CAPTURE(block);
    REQUIRE(backend.Copy(reinterpret_cast<std::byte*>(words.data()), at(block), kBytes).ok());
    REQUIRE(backend.Synchronize().ok());
    REQUIRE(std::count(words.begin(), words.end(), expected[block]) ==
            static_cast<std::ptrdiff_t>(kWords));
  }
}

TEST_CASE("rows that need their history are sampled on the host") {
  SamplingParams params;
  params.temperature = 0.7F;
  params.top_k = 40;
  params.top_p = 0.9F;
  params.min_p = 0.05F;
  params.seed = 5;
  SampleRow row;
  row.position = 12;
  row.logits_row = 3;
  row.params = &params;
  REQUIRE(SamplesOnDevice(row));
  const cuda::SampleCudaRow device = DeviceRow(row);
  CHECK(device.position == 12);
  CHECK(device.seed == 5);
  CHECK(device.logits_row == 3);
  CHECK(device.forced_token == -1);
  CHECK(device.feedback_slot == -1);
  CHECK(device.top_k == 40);
  CHECK(device.top_p == 0.9F);
  CHECK(device.min_p == 0.05F);
  CHECK(device.temperature == 0.7F);
  row.num_logprobs = 1;
  CHECK_FALSE(SamplesOnDevice(row));
  row.num_logprobs = 0;
  const int32_t banned[] = {2};
  row.banned = banned;
  CHECK_FALSE(SamplesOnDevice(row));
  row.banned = {};
  params.logit_bias.emplace_back(1, 2.0F);
  CHECK_FALSE(SamplesOnDevice(row));
  params.logit_bias.clear();
  TokenHistory history;
  row.history = &history;
  CHECK(SamplesOnDevice(row));
  params.repetition_penalty = 1.1F;
  CHECK_FALSE(SamplesOnDevice(row));
  row = {};
  row.forced_token = 7;
  REQUIRE(SamplesOnDevice(row));
  CHECK(DeviceRow(row).forced_token == 7);
}

TEST_CASE("a step's memory is arithmetic on its limits") {
  ModelConfig config;
  config.num_heads = 8;
  config.num_kv_heads = 2;
  config.head_dim = 64;
  config.vocab_size = 512;
  const cuda::AttentionDevice device = {.num_sms = 132, .shared_bytes = 232448};
  StepLimits limits = {.block_size = 64,
                       .max_rows = 24,
                       .max_logits_rows = 64,
                       .max_partials = 100,
                       .max_entries = 50};
  const CudaStepMemory small = PlanCudaSteps(config, limits, device);
  // Parts follow each other without overlap, each on 256 bytes.
  CHECK(small.attention >= small.staging.upload_bytes);
  CHECK(small.matmul >=
        small.attention + cuda::AttentionWorkspaceBytes(device, config.head_dim, 100));
  CHECK(small.feedback >= small.sample);
  CHECK(small.device_bytes >= small.feedback + 2 * 24 * 4);
  CHECK(small.pinned_bytes >= small.logits + kHostSampleRows * 512 * 4);
  for (const int64_t offset :
       {small.attention, small.matmul, small.sample, small.feedback, small.logits, small.ids}) {
    CHECK(offset % 256 == 0);
  }
  limits.max_rows = 1000;
  CHECK(PlanCudaSteps(config, limits, device).device_bytes > small.device_bytes);
}

}  // namespace
}  // namespace ringserve
