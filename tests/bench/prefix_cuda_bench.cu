// Decode attention of many sequences that begin alike: once over shared blocks, once over blocks of
// their own, on CUDA. Prints both times, what was read, and how often blocks were.
//   prefix_cuda_bench [SEQUENCES [SHARED_TOKENS [OWN_TOKENS]]]
// 32 query heads on 8 KV heads, head_dim 128, bf16, random data, blocks in random places.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "engine/plan/tile_planner.h"
#include "kernels/attention_cuda.h"
#include "tests/bench/cuda_bench.cuh"
#include "tests/support/device_memory.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

constexpr int32_t kHeads = 32;
constexpr int32_t kKvHeads = 8;
constexpr int32_t kHeadDim = 128;
constexpr int32_t kBlockSize = 64;
constexpr int64_t kSplitSize = 2048;  // backend_cuda's

struct Shape {
  int32_t num_sequences = 64;
  int64_t shared_tokens = 32768;
  int64_t own_tokens = 256;
};

struct Result {
  double us = 0;
  int64_t block_loads = 0;    // by the plan, for each KV head
  int64_t tile_loads = 0;     // by the kernels, keys and values together
  double distinct_bytes = 0;  // keys and values that are there
};

class Bench {
 public:
  Bench(const cuda::AttentionDevice& device, const Shape& shape)
      : device_(device),
        shape_(shape),
        num_blocks_(shape.num_sequences * (shape.shared_tokens + shape.own_tokens) / kBlockSize),
        pool_(static_cast<size_t>(num_blocks_ * layout_.block_bytes())),
        q_(static_cast<size_t>(shape.num_sequences) * kHeads * kHeadDim * 2),
        out_(q_.bytes()),
        free_(static_cast<size_t>(num_blocks_)) {
    bench::FillRandom<<<4096, 256>>>(
        pool_.as<__nv_bfloat16>(), static_cast<int64_t>(pool_.bytes() / 2), 5, 1);
    bench::FillRandom<<<1024, 256>>>(
        q_.as<__nv_bfloat16>(), static_cast<int64_t>(q_.bytes() / 2), 3, 1);
    CheckCuda(cudaDeviceSynchronize(), "fill");
    std::iota(free_.begin(), free_.end(), 0);
    Random random(7);
    for (size_t i = free_.size() - 1; i > 0; --i) {
      std::swap(free_[i], free_[static_cast<size_t>(random.Int(0, static_cast<int64_t>(i)))]);
    }
  }

  Result Run(bool shares) {
    TilePlan plan;
    PlanStep(shares, plan);
    cuda::PackedAttentionPlan packed;
    if (const char* problem =
            cuda::PackAttentionPlan(plan, {.layout = layout_, .num_heads = kHeads}, packed);
        problem != nullptr) {
      std::fprintf(stderr, "%s\n", problem);
      std::exit(1);
    }
    std::vector<std::byte> image(static_cast<size_t>(cuda::PackedBytes(packed)));
    const DeviceMemory on_device(image.size());
    const DeviceMemory workspace(
        static_cast<size_t>(cuda::AttentionWorkspaceBytes(device_, kHeadDim, packed.num_partials)));
    workspace.Fill(0);
    cuda::AttentionCudaArgs args;
    args.plan = cuda::WritePlan(packed, image.data(), on_device.as());
    CheckCuda(cudaMemcpy(on_device.as(), image.data(), image.size(), cudaMemcpyHostToDevice),
              "plan");
    args.q = q_.as();
    args.kv = {.pool = pool_.as(), .layout = layout_, .layer = 0};
    args.num_blocks = static_cast<int32_t>(num_blocks_);
    args.out = out_.as();
    args.q_stride = args.out_stride = int64_t{kHeads} * kHeadDim;
    args.num_rows = shape_.num_sequences;
    args.num_heads = kHeads;
    args.scale = 1 / std::sqrt(static_cast<float>(kHeadDim));
    args.workspace = workspace.as();
    args.max_partials = packed.num_partials;
    Result result;
    result.us = bench::Measure(4, [&](int32_t, cudaStream_t stream) {
      CheckCuda(cuda::LaunchAttention(device_, args, cuda::AttentionKernels::kBest, stream),
                "attention");
    });
    result.block_loads = plan.counts.block_loads;
    // A prefill item of more than 64 rows runs in two passes.
    for (const auto& item : packed.decode) {
      result.tile_loads += item.num_tiles;
    }
    for (const auto& item : packed.general_prefill) {
      result.tile_loads += item.num_tiles * CeilDiv(item.num_rows * item.num_heads, 64);
    }
    const int64_t own = shape_.num_sequences * shape_.own_tokens;
    const int64_t prefix = shape_.shared_tokens * (shares ? 1 : shape_.num_sequences);
    result.distinct_bytes = static_cast<double>(own + prefix) * 4 * kKvHeads * kHeadDim;
    return result;
  }

 private:
  void PlanStep(bool shares, TilePlan& plan) const {
    std::vector<TileSequence> sequences;
    std::vector<BlockEntry> entries;
    size_t next = 0;
    const int64_t length = shape_.shared_tokens + shape_.own_tokens;
    for (int32_t s = 0; s < shape_.num_sequences; ++s) {
      TileSequence sequence = {.first_row = s,
                               .num_rows = 1,
                               .first_position = length - 1,
                               .first_entry = static_cast<int32_t>(entries.size())};
      for (int64_t at = 0; at < length; at += kBlockSize) {
        BlockEntry entry = {.num_keys = kBlockSize, .position = at};
        if (shares && s > 0 && at < shape_.shared_tokens) {
          entry.block = entries[static_cast<size_t>(at / kBlockSize)].block;
        } else {
          entry.block = free_[next++];
        }
        entries.push_back(entry);
      }
      sequence.num_entries = static_cast<int32_t>(entries.size()) - sequence.first_entry;
      sequences.push_back(sequence);
    }
    PlanTiles({.sequences = sequences, .entries = entries},
              {.num_heads = kHeads,
               .num_kv_heads = kKvHeads,
               .tile_size = kBlockSize,
               .split_size = kSplitSize,
               .num_workers = device_.num_sms},
              plan);
  }

  const KvLayout layout_ = {
      .block_size = kBlockSize, .num_layers = 1, .num_kv_heads = kKvHeads, .head_dim = kHeadDim};
  const cuda::AttentionDevice& device_;
  const Shape shape_;
  const int64_t num_blocks_;
  const DeviceMemory pool_;
  const DeviceMemory q_;
  const DeviceMemory out_;
  std::vector<int32_t> free_;
};

int Main(int argc, char** argv) {
  Shape shape;
  if (argc > 1) {
    shape.num_sequences = std::atoi(argv[1]);
  }
  if (argc > 2) {
    shape.shared_tokens = std::atoll(argv[2]);
  }
  if (argc > 3) {
    shape.own_tokens = std::atoll(argv[3]);
  }
  if (shape.num_sequences < 1 || shape.shared_tokens % kBlockSize != 0 ||
      shape.own_tokens < kBlockSize || shape.own_tokens % kBlockSize != 0) {
    std::fprintf(stderr, "sequences must be positive, tokens multiples of %d\n", kBlockSize);
    return 2;
  }
  cuda::AttentionDevice device;
  CheckCuda(cuda::FindAttentionDevice(0, device), "FindAttentionDevice");
  Bench bench(device, shape);
  std::printf("%d sequences of %ld shared and %ld own tokens, one layer\n",
              shape.num_sequences,
              static_cast<long>(shape.shared_tokens),
              static_cast<long>(shape.own_tokens));
  Result results[2];
  for (const bool shares : {false, true}) {
    Result& result = results[shares];
    result = bench.Run(shares);
    std::printf("  %-8s %9.1f us  %7.0f MB of keys and values  %9ld block loads  %9ld tile loads\n",
                shares ? "shared" : "apart",
                result.us,
                result.distinct_bytes * 1e-6,
                static_cast<long>(result.block_loads),
                static_cast<long>(result.tile_loads));
  }
  std::printf("  shared is %.2f times as fast\n", results[0].us / results[1].us);
  return 0;
}

}  // namespace
}  // namespace ringserve

int main(int argc, char** argv) {
  return ringserve::Main(argc, argv);
}
