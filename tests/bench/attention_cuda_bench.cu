// Speed of the CUDA attention kernels, as TFLOP/s or TB/s and as percent of ceilings measured in
// the same run (device copy, device read, cuBLAS bf16 product).
//   attention_cuda_bench [--split=KEYS] [--rest=MS] [--portable] [--block=TOKENS]
//   [--only=LENGTH_OR_CELL]
//                        [ceilings] [prefill] [decode]
// 32 query heads on 8 KV heads, head_dim 128, bf16, random data, blocks in random places of the
// pool ("wrapped") unless a line says linear. Times are medians of graph replays; --rest idles
// before each, so that a power limit does not lower the clock.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <cublas_v2.h>
#include <dlfcn.h>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <cuda_bf16.h>

#include "engine/plan/tile_planner.h"
#include "kernels/attention_cuda.h"
#include "tests/support/device_memory.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

constexpr int32_t kHeads = 32;
constexpr int32_t kKvHeads = 8;
constexpr int32_t kHeadDim = 128;
constexpr int64_t kPoolBytes = int64_t{3} << 30;

int32_t rest_ms = 0;

struct Settings {
  int64_t split_size = 1024;
  int32_t block_size = 64;
  int64_t only = 0;  // the one prefill length or decode cell to run
  cuda::AttentionKernels kernels = cuda::AttentionKernels::kBest;
};

__global__ void FillRandom(__nv_bfloat16* values, int64_t count, uint32_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    float sum = 0;  // about normal: four uniforms
    auto state = static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15ULL + seed;
    for (int32_t j = 0; j < 4; ++j) {
      state ^= state >> 30;
      state *= 0xbf58476d1ce4e5b9ULL;
      state ^= state >> 27;
      sum += static_cast<float>(state >> 40) * 0x1p-24F - 0.5F;
    }
    values[i] = __float2bfloat16(sum * 1.732F);
  }
}

__global__ void __launch_bounds__(1024) ReadAll(const uint4* values, int64_t count, uint32_t* out) {
  uint32_t sum = 0;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  for (; i + 7 * stride < count; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int32_t j = 0; j < 8; ++j) {
      v[j] = __ldcs(values + i + j * stride);
    }
#pragma unroll
    for (int32_t j = 0; j < 8; ++j) {
      sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
  }
  if (sum == 0x12345678U) {
    *out = sum;
  }
}

// Median time in microseconds of one of `count` calls of enqueue(i), replayed as one graph.
double Measure(int32_t count, const std::function<void(int32_t, cudaStream_t)>& enqueue) {
  cudaStream_t stream;
  CheckCuda(cudaStreamCreate(&stream), "stream");
  cudaGraph_t graph;
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int32_t i = 0; i < count; ++i) {
    enqueue(i, stream);
  }
  CheckCuda(cudaStreamEndCapture(stream, &graph), "capture");
  cudaGraphExec_t exec;
  CheckCuda(cudaGraphInstantiate(&exec, graph, 0), "graph");
  cudaEvent_t begin;
  cudaEvent_t end;
  CheckCuda(cudaEventCreate(&begin), "event");
  CheckCuda(cudaEventCreate(&end), "event");
  std::vector<double> times;
  for (int32_t replay = 0; replay < 9; ++replay) {
    std::this_thread::sleep_for(std::chrono::milliseconds(rest_ms));
    CheckCuda(cudaEventRecord(begin, stream), "event");
    CheckCuda(cudaGraphLaunch(exec, stream), "replay");
    CheckCuda(cudaEventRecord(end, stream), "event");
    CheckCuda(cudaEventSynchronize(end), "replay");
    float ms = 0;
    CheckCuda(cudaEventElapsedTime(&ms, begin, end), "event");
    if (replay >= 2) {
      times.push_back(ms * 1000.0 / count);
    }
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

struct Ceilings {
  double read_gbs = 0;
  double copy_gbs = 0;
  double product_tflops = 0;
};

double MeasureProduct() {
  void* library = dlopen("libcublas.so.13", RTLD_NOW);
  if (library == nullptr) {
    std::printf("no libcublas.so.13 (%s): the product's ceiling is not measured\n", dlerror());
    return 0;
  }
  const auto create =
      reinterpret_cast<decltype(&cublasCreate_v2)>(dlsym(library, "cublasCreate_v2"));
  const auto set_stream =
      reinterpret_cast<decltype(&cublasSetStream_v2)>(dlsym(library, "cublasSetStream_v2"));
  using Gemm = cublasStatus_t (*)(cublasHandle_t,
                                  cublasOperation_t,
                                  cublasOperation_t,
                                  int,
                                  int,
                                  int,
                                  const void*,
                                  const void*,
                                  cudaDataType,
                                  int,
                                  const void*,
                                  cudaDataType,
                                  int,
                                  const void*,
                                  void*,
                                  cudaDataType,
                                  int,
                                  cublasComputeType_t,
                                  cublasGemmAlgo_t);
  const auto gemm = reinterpret_cast<Gemm>(dlsym(library, "cublasGemmEx"));
  cublasHandle_t handle;
  if (create == nullptr || gemm == nullptr || create(&handle) != CUBLAS_STATUS_SUCCESS) {
    return 0;
  }
  constexpr int32_t kSize = 8192;
  const DeviceMemory a(size_t{2} * kSize * kSize);
  const DeviceMemory b(size_t{2} * kSize * kSize);
  const DeviceMemory c(size_t{2} * kSize * kSize);
  FillRandom<<<1024, 256>>>(a.as<__nv_bfloat16>(), int64_t{kSize} * kSize, 1);
  FillRandom<<<1024, 256>>>(b.as<__nv_bfloat16>(), int64_t{kSize} * kSize, 2);
  const float one = 1;
  const float zero = 0;
  const double us = Measure(8, [&](int32_t, cudaStream_t stream) {
    set_stream(handle, stream);
    gemm(handle,
         CUBLAS_OP_T,
         CUBLAS_OP_N,
         kSize,
         kSize,
         kSize,
         &one,
         a.as<void>(),
         CUDA_R_16BF,
         kSize,
         b.as<void>(),
         CUDA_R_16BF,
         kSize,
         &zero,
         c.as<void>(),
         CUDA_R_16BF,
         kSize,
         CUBLAS_COMPUTE_32F,
         CUBLAS_GEMM_DEFAULT);
  });
  return 2.0 * kSize * kSize * kSize / us / 1e6;
}

Ceilings MeasureCeilings(const cuda::AttentionDevice& device, const DeviceMemory& pool) {
  Ceilings ceilings;
  const DeviceMemory sink(4);
  const int64_t bytes = int64_t{1} << 30;
  for (const int32_t blocks_per_sm : {1, 2}) {
    const double us = Measure(4, [&](int32_t i, cudaStream_t stream) {
      ReadAll<<<device.num_sms * blocks_per_sm, 1024, 0, stream>>>(
          pool.as<uint4>() + i % 2 * (bytes / 16), bytes / 16, sink.as<uint32_t>());
    });
    ceilings.read_gbs = std::max(ceilings.read_gbs, static_cast<double>(bytes) / us / 1e3);
  }
  const DeviceMemory target(bytes);
  const double us = Measure(4, [&](int32_t i, cudaStream_t stream) {
    CheckCuda(cudaMemcpyAsync(
                  target.as(), pool.as() + i % 2 * bytes, bytes, cudaMemcpyDeviceToDevice, stream),
              "copy");
  });
  ceilings.copy_gbs = 2.0 * static_cast<double>(bytes) / us / 1e3;
  ceilings.product_tflops = MeasureProduct();
  std::printf("ceilings: read %.0f GB/s, copy %.0f GB/s, bf16 product 8192^3 %.0f TFLOP/s\n",
              ceilings.read_gbs,
              ceilings.copy_gbs,
              ceilings.product_tflops);
  return ceilings;
}

// One planned step over the pool, on the device.
class Step {
 public:
  // Sequences of (length, rows): the last `rows` positions are queries. Blocks are taken from
  // first_block on, in order or shuffled.
  Step(const cuda::AttentionDevice& device,
       const Settings& settings,
       const DeviceMemory& pool,
       const std::vector<std::pair<int64_t, int32_t>>& sequences,
       int64_t first_block,
       bool linear)
      : device_(device), settings_(settings) {
    const KvLayout layout = {.block_size = settings.block_size,
                             .num_layers = 1,
                             .num_kv_heads = kKvHeads,
                             .head_dim = kHeadDim};
    std::vector<TileSequence> planned;
    std::vector<BlockEntry> entries;
    int32_t num_rows = 0;
    for (const auto& [length, rows] : sequences) {
      TileSequence sequence = {.first_row = num_rows,
                               .num_rows = rows,
                               .first_position = length - rows,
                               .first_entry = static_cast<int32_t>(entries.size())};
      for (int64_t at = 0; at < length; at += layout.block_size) {
        entries.push_back(
            {.block = static_cast<int32_t>(first_block + entries.size()),
             .num_keys = static_cast<int32_t>(std::min<int64_t>(layout.block_size, length - at)),
             .position = at});
      }
      sequence.num_entries = static_cast<int32_t>(entries.size()) - sequence.first_entry;
      planned.push_back(sequence);
      num_rows += rows;
      num_keys_ += length;
    }
    num_blocks_ = static_cast<int64_t>(entries.size());
    if (!linear) {
      Random random(7);
      for (size_t i = entries.size() - 1; i > 0; --i) {
        std::swap(entries[i].block,
                  entries[static_cast<size_t>(random.Int(0, static_cast<int64_t>(i)))].block);
      }
    }
    TilePlan plan;
    PlanTiles({.sequences = planned, .entries = entries},
              {.num_heads = kHeads,
               .num_kv_heads = kKvHeads,
               .tile_size = 64,
               .split_size = settings.split_size,
               .num_workers = device.num_sms},
              plan);
    cuda::PackedAttentionPlan packed;
    if (const char* error =
            cuda::PackAttentionPlan(plan, {.layout = layout, .num_heads = kHeads}, packed);
        error != nullptr) {
      std::fprintf(stderr, "%s\n", error);
      std::abort();
    }
    std::vector<std::byte> image(cuda::PackedBytes(packed));
    memory_.emplace_back(image.size());
    args_.plan = cuda::WritePlan(packed, image.data(), memory_[0].as());
    CheckCuda(cudaMemcpy(memory_[0].as(), image.data(), image.size(), cudaMemcpyHostToDevice),
              "plan");
    const int64_t elements = int64_t{num_rows} * kHeads * kHeadDim;
    memory_.emplace_back(elements * 2);
    memory_.emplace_back(elements * 2);
    memory_.emplace_back(cuda::AttentionWorkspaceBytes(device, kHeadDim, packed.num_partials));
    CheckCuda(cudaMemset(memory_[3].as(), 0, cuda::AttentionZeroedBytes(packed.num_partials)),
              "counters");
    args_.max_partials = packed.num_partials;
    FillRandom<<<1024, 256>>>(memory_[1].as<__nv_bfloat16>(), elements, 3);
    args_.q = memory_[1].as();
    args_.out = memory_[2].as();
    args_.workspace = memory_[3].as();
    args_.kv = {.pool = pool.as(), .layout = layout, .layer = 0};
    args_.num_blocks =
        static_cast<int32_t>(static_cast<int64_t>(pool.bytes()) / layout.block_bytes());
    args_.q_stride = args_.out_stride = int64_t{kHeads} * kHeadDim;
    args_.num_rows = num_rows;
    args_.num_heads = kHeads;
    args_.scale = 1 / std::sqrt(static_cast<float>(kHeadDim));
  }

  void Enqueue(cudaStream_t stream) const {
    CheckCuda(cuda::LaunchAttention(device_, args_, settings_.kernels, stream), "attention");
  }

  int64_t num_blocks() const { return num_blocks_; }

  double KvBytes() const { return static_cast<double>(num_keys_) * 2 * kKvHeads * kHeadDim * 2; }

 private:
  const cuda::AttentionDevice& device_;
  const Settings& settings_;
  cuda::AttentionCudaArgs args_;
  std::vector<DeviceMemory> memory_;
  int64_t num_keys_ = 0;
  int64_t num_blocks_ = 0;
};

void Percent(double value, double ceiling) {
  if (ceiling > 0) {
    std::printf(" %5.1f %%", 100 * value / ceiling);
  }
}

void BenchPrefill(const cuda::AttentionDevice& device,
                  const Settings& settings,
                  const DeviceMemory& pool,
                  const Ceilings& ceilings) {
  std::printf("prefill, causal; split %ld: TFLOP/s wrapped, %% of product, linear, us\n",
              static_cast<long>(settings.split_size));
  for (const int64_t length : {1024, 2048, 4096, 8192, 16384, 32768}) {
    if (settings.only != 0 && settings.only != length) {
      continue;
    }
    const auto batch = static_cast<size_t>(std::max<int64_t>(16384 / length, 1));
    const std::vector<std::pair<int64_t, int32_t>> sequences(
        batch, {length, static_cast<int32_t>(length)});
    const double flops = 2.0 * static_cast<double>(batch) * static_cast<double>(length) *
                         static_cast<double>(length) * kHeads * kHeadDim;
    double tflops[2];
    double us = 0;
    for (const bool linear : {true, false}) {
      const Step step(device, settings, pool, sequences, 0, linear);
      us = Measure(length > 16384 ? 4 : 10, [&](int32_t, cudaStream_t s) { step.Enqueue(s); });
      tflops[linear] = flops / us / 1e6;
    }
    std::printf("  %2zu x %5ld  %6.1f", batch, static_cast<long>(length), tflops[0]);
    Percent(tflops[0], ceilings.product_tflops);
    std::printf("  %6.1f  %9.1f\n", tflops[1], us);
  }
}

void BenchDecode(const cuda::AttentionDevice& device,
                 const Settings& settings,
                 const DeviceMemory& pool,
                 const Ceilings& ceilings) {
  struct Cell {
    const char* name;
    std::vector<std::pair<int64_t, int32_t>> sequences;
  };

  const auto uniform = [](size_t batch, int64_t length) {
    return std::vector<std::pair<int64_t, int32_t>>(batch, {length, 1});
  };
  std::vector<Cell> cells = {{"1 x 8k", uniform(1, 8192)},
                             {"1 x 32k", uniform(1, 32768)},
                             {"1 x 128k", uniform(1, 131072)},
                             {"8 x 8k", uniform(8, 8192)},
                             {"32 x 1k", uniform(32, 1024)},
                             {"32 x 8k", uniform(32, 8192)},
                             {"64 x 2k", uniform(64, 2048)},
                             {"256 x 1k", uniform(256, 1024)},
                             {"64 x 8k", uniform(64, 8192)}};
  cells.push_back({"32 x 1999", uniform(32, 1999)});  // as many bytes as the next
  cells.push_back({"1x32k+31x1k", uniform(31, 1024)});
  cells.back().sequences.emplace_back(32768, 1);
  std::printf("decode, one query; split %ld: GB/s of keys and values, %% of read, us\n",
              static_cast<long>(settings.split_size));
  for (const Cell& cell : cells) {
    if (settings.only != 0 && &cell != &cells[static_cast<size_t>(settings.only) - 1]) {
      continue;
    }
    // Rotate among as many copies as flush the L2 between two uses of one.
    std::vector<Step> steps;
    steps.emplace_back(device, settings, pool, cell.sequences, 0, false);
    const auto copies = static_cast<int32_t>(std::clamp(512e6 / steps[0].KvBytes(), 1.0, 16.0));
    for (int32_t i = 1; i < copies; ++i) {
      steps.emplace_back(device, settings, pool, cell.sequences, i * steps[0].num_blocks(), false);
    }
    const double us = Measure(std::max(copies, 8), [&](int32_t i, cudaStream_t stream) {
      steps[static_cast<size_t>(i % copies)].Enqueue(stream);
    });
    const double gbs = steps[0].KvBytes() / us / 1e3;
    std::printf("  %-12s %6.0f", cell.name, gbs);
    Percent(gbs, ceilings.read_gbs);
    std::printf("  %8.2f\n", us);
  }
}

int Main(int argc, char** argv) {
  Settings settings;
  bool run[3] = {false, false, false};
  const char* const names[3] = {"ceilings", "prefill", "decode"};
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto name = std::find(names, names + 3, arg);
    if (arg.starts_with("--split=")) {
      settings.split_size = std::stol(arg.substr(8));
    } else if (arg.starts_with("--block=")) {
      settings.block_size = std::stoi(arg.substr(8));
    } else if (arg.starts_with("--rest=")) {
      rest_ms = std::stoi(arg.substr(7));
    } else if (arg.starts_with("--only=")) {
      settings.only = std::stol(arg.substr(7));
    } else if (arg == "--portable") {
      settings.kernels = cuda::AttentionKernels::kPortable;
    } else if (name != names + 3) {
      run[name - names] = true;
    } else {
      std::fprintf(stderr, "unknown argument %s\n", argv[i]);
      return 2;
    }
  }
  if (!run[0] && !run[1] && !run[2]) {
    run[0] = run[1] = run[2] = true;
  }
  cuda::AttentionDevice device;
  CheckCuda(cuda::FindAttentionDevice(0, device), "FindAttentionDevice");
  const DeviceMemory pool(kPoolBytes);
  FillRandom<<<4096, 256>>>(pool.as<__nv_bfloat16>(), kPoolBytes / 2, 5);
  CheckCuda(cudaDeviceSynchronize(), "fill");
  Ceilings ceilings;
  if (run[0]) {
    ceilings = MeasureCeilings(device, pool);
  }
  if (run[1]) {
    BenchPrefill(device, settings, pool, ceilings);
  }
  if (run[2]) {
    BenchDecode(device, settings, pool, ceilings);
  }
  return 0;
}

}  // namespace
}  // namespace ringserve

int main(int argc, char** argv) {
  return ringserve::Main(argc, argv);
}
