// Speed of the small kernels of a step on CUDA, and of the layers of a Llama-3-8B shape without
// attention, whose kernels overlap, beside the read ceiling of the same run.
//   step_cuda_bench
#include <cstring>
#include <string>

#include "kernels/chain_cuda.h"
#include "kernels/embed_cuda.h"
#include "kernels/matmul_hopper_cuda.h"
#include "kernels/rmsnorm_cuda.h"
#include "kernels/rope_cuda.h"
#include "kernels/sample_cuda.h"
#include "kernels/swiglu_cuda.h"
#include "tests/bench/cuda_bench.cuh"

namespace ringserve::bench {
namespace {

constexpr int32_t kHidden = 4096;
constexpr int32_t kFfn = 14336;
constexpr int32_t kHeads = 32;
constexpr int32_t kKvHeads = 8;
constexpr int32_t kHeadDim = 128;
constexpr int32_t kQkv = (kHeads + 2 * kKvHeads) * kHeadDim;
constexpr int32_t kVocab = 128256;
constexpr int32_t kLayers = 4;
constexpr int32_t kMaxRows = 8192;
constexpr int64_t kPoolBytes = int64_t{2200} << 20;

__global__ void FillFloats(float* values, int64_t count, float scale) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    const auto bits = static_cast<uint32_t>(i) * 2654435761U;
    values[i] = (static_cast<float>(bits >> 8) * 0x1p-24F - 0.5F) * scale;
  }
}

struct Bench {
  cuda::HopperDevice device;
  DeviceMemory pool{kPoolBytes};
  DeviceMemory x{size_t{kMaxRows} * kHidden * 4};
  DeviceMemory projected{size_t{kMaxRows} * kHidden * 4};
  DeviceMemory normed{size_t{kMaxRows} * kHidden * 2};
  DeviceMemory wide{size_t{kMaxRows} * 2 * kFfn * 4};
  DeviceMemory activated{size_t{kMaxRows} * kFfn * 2};
  DeviceMemory q{size_t{kMaxRows} * kHidden * 2};
  DeviceMemory kv{size_t{kMaxRows} * 2 * kKvHeads * kHeadDim * 2};
  DeviceMemory angles{size_t{kMaxRows} * kHeadDim * 4};
  DeviceMemory norm_weight{size_t{kHidden} * 4};
  DeviceMemory slots{size_t{kMaxRows} * 8};
  DeviceMemory token_ids{size_t{kMaxRows} * 4};
  DeviceMemory scales{size_t{kMaxRows} * 4};  // of the norms, which are deferred
  DeviceMemory chain{cuda::kChainBytes};
  Ceilings ceilings;

  void Norm(int32_t rows, bool residual, cudaStream_t stream) {
    CheckCuda(cuda::LaunchRmsNorm({.x = x.as<float>(),
                                   .residual_in = residual ? projected.as<float>() : nullptr,
                                   .weight = norm_weight.as<float>(),
                                   .out = normed.as(),
                                   .num_rows = rows,
                                   .hidden_dim = kHidden,
                                   .eps = 1e-5F,
                                   .scales = scales.as<float>()},
                                  stream),
              "norm");
  }

  void Rope(int32_t rows, cudaStream_t stream) {
    RopeAppendArgs args;
    args.qkv = wide.as<float>();
    args.angles = angles.as<float>();
    args.slots = slots.as<int64_t>();
    args.q = q.as();
    args.kv.pool = kv.as();
    args.kv.layout = {
        .block_size = 64, .num_layers = 1, .num_kv_heads = kKvHeads, .head_dim = kHeadDim};
    args.num_rows = rows;
    args.num_heads = kHeads;
    CheckCuda(cuda::LaunchRopeAppend(args, stream), "rope");
  }

  void SwiGlu(int32_t rows, cudaStream_t stream) {
    CheckCuda(
        cuda::LaunchSwiGlu(
            {.gate_up = wide.as<float>(), .out = activated.as(), .num_rows = rows, .ffn_dim = kFfn},
            stream),
        "swiglu");
  }

  void Embed(int32_t rows, cudaStream_t stream) {
    CheckCuda(cuda::LaunchEmbed({.token_ids = token_ids.as<int32_t>(),
                                 .table = pool.as(),
                                 .out = x.as<float>(),
                                 .num_rows = rows,
                                 .hidden_dim = kHidden,
                                 .vocab_size = kVocab},
                                nullptr,
                                stream),
              "embed");
  }

  void Product(const void* in,
               int64_t weight,
               int32_t n,
               int32_t k,
               void* out,
               int32_t rows,
               cudaStream_t stream,
               bool gated = false) {
    const Matrix matrix = {pool.as() + weight, n, k, DType::kBf16};
    const float* by = in == normed.as() ? scales.as<float>() : nullptr;
    CheckCuda(gated ? cuda::LaunchHopperGatedMatMul(device, {in, matrix, out, rows, by}, stream)
                    : cuda::LaunchHopperMatMul(device,
                                               {.x = in,
                                                .weight = matrix,
                                                .out = static_cast<float*>(out),
                                                .num_rows = rows,
                                                .row_scales = by},
                                               stream),
              "matmul");
  }

  static constexpr int64_t kLayerBytes =
      2 * (int64_t{kQkv} * kHidden + int64_t{kHidden} * kHidden + int64_t{3} * kHidden * kFfn);

  void Layer(int32_t layer, int32_t rows, bool gated, cudaStream_t stream) {
    int64_t at = layer * kLayerBytes;
    const auto weight = [&at](int64_t elements) {
      at += 2 * elements;
      return at - 2 * elements;
    };
    Norm(rows, true, stream);
    Product(normed.as(), weight(int64_t{kQkv} * kHidden), kQkv, kHidden, wide.as(), rows, stream);
    Rope(rows, stream);
    Product(
        q.as(), weight(int64_t{kHidden} * kHidden), kHidden, kHidden, projected.as(), rows, stream);
    Norm(rows, true, stream);
    const int64_t gate_up = weight(int64_t{2} * kFfn * kHidden);
    if (gated) {
      Product(normed.as(), gate_up, 2 * kFfn, kHidden, activated.as(), rows, stream, true);
    } else {
      Product(normed.as(), gate_up, 2 * kFfn, kHidden, wide.as(), rows, stream);
      SwiGlu(rows, stream);
    }
    Product(activated.as(),
            weight(int64_t{kHidden} * kFfn),
            kHidden,
            kFfn,
            projected.as(),
            rows,
            stream);
  }

  // The layers of Layers, but for rotation, with one kernel for what lies between two attentions.
  void Chains(int32_t rows, const cuda::ChainTuning& tuning) {
    const double us = Measure(2, [&](int32_t, cudaStream_t stream) {
      for (int32_t layer = 0; layer < kLayers; ++layer) {
        Chain(layer, rows, tuning, stream);
        Rope(rows, stream);
      }
    });
    const double bytes = static_cast<double>(kLayerBytes) * kLayers;
    std::printf(
        "  %d layers, chains x %4d, shared %3d K, units %d  %8.2f us a layer, weights %5.2f TB/s "
        "%5.1f %% of read\n",
        kLayers,
        rows,
        tuning.shared_bytes >> 10,
        tuning.max_units,
        us / kLayers,
        bytes / us / 1e6,
        bytes / us / 1e3 / ceilings.read_gbs * 100);
  }

  std::vector<cuda::ChainOp> ChainOps(int32_t layer, int32_t rows) const {
    int64_t at = layer * kLayerBytes;
    const auto weight = [&at, this](int64_t n, int64_t k) {
      at += 2 * n * k;
      return Matrix{pool.as() + at - 2 * n * k, n, k, DType::kBf16};
    };
    const RmsNormArgs norm = {.x = x.as<float>(),
                              .residual_in = projected.as<float>(),
                              .weight = norm_weight.as<float>(),
                              .out = normed.as(),
                              .num_rows = rows,
                              .hidden_dim = kHidden,
                              .eps = 1e-5F,
                              .scales = scales.as<float>()};
    return {MatMulArgs{q.as(), weight(kHidden, kHidden), projected.as<float>(), rows},
            norm,
            cuda::GatedMatMulArgs{
                normed.as(), weight(2 * kFfn, kHidden), activated.as(), rows, scales.as<float>()},
            MatMulArgs{activated.as(), weight(kHidden, kFfn), projected.as<float>(), rows},
            norm,
            MatMulArgs{.x = normed.as(),
                       .weight = weight(kQkv, kHidden),
                       .out = wide.as<float>(),
                       .num_rows = rows,
                       .row_scales = scales.as<float>()}};
  }

  void Chain(int32_t layer, int32_t rows, const cuda::ChainTuning& tuning, cudaStream_t stream) {
    CheckCuda(cuda::LaunchChain(device, ChainOps(layer, rows), chain.as(), stream, tuning),
              "chain");
  }

  // A chain against its ops one by one.
  void CompareChain(int32_t rows) {
    const auto run = [&](const std::function<void()>& launch) {
      FillFloats<<<1024, 256>>>(x.as<float>(), int64_t{rows} * kHidden, 2);
      wide.Fill(0xff);
      launch();
      CheckCuda(cudaDeviceSynchronize(), "ops");
      std::vector<float> out(static_cast<size_t>(rows) * kQkv);
      CheckCuda(cudaMemcpy(out.data(), wide.as(), 4 * out.size(), cudaMemcpyDeviceToHost), "copy");
      return out;
    };
    const auto apart = run([&] {
      for (const cuda::ChainOp& op : ChainOps(0, rows)) {
        if (const auto* norm = std::get_if<RmsNormArgs>(&op)) {
          CheckCuda(cuda::LaunchRmsNorm(*norm, nullptr), "norm");
        } else if (const auto* gated = std::get_if<cuda::GatedMatMulArgs>(&op)) {
          CheckCuda(cuda::LaunchHopperGatedMatMul(device, *gated, nullptr), "gated matmul");
        } else {
          CheckCuda(cuda::LaunchHopperMatMul(device, std::get<MatMulArgs>(op), nullptr), "matmul");
        }
      }
    });
    const auto chained = run([&] { Chain(0, rows, {}, nullptr); });
    std::printf("  chain x %4d: %s\n",
                rows,
                std::memcmp(apart.data(), chained.data(), 4 * apart.size()) == 0 ? "same bits"
                                                                                 : "OTHER BITS");
  }

  void Line(const char* name,
            int32_t rows,
            double bytes,
            const std::function<void(cudaStream_t)>& enqueue) {
    const double us = Measure(
        20, [&](int32_t, cudaStream_t stream) { enqueue(stream); }, 5);
    std::printf("  %-12s x %4d  %8.2f us  %6.1f GB/s\n", name, rows, us, bytes / us / 1e3);
  }

  void Kernels(int32_t rows) {
    const double r = rows;
    Line("norm", rows, r * kHidden * 14, [&](cudaStream_t s) { Norm(rows, true, s); });
    Line("rope", rows, r * kQkv * 6, [&](cudaStream_t s) { Rope(rows, s); });
    Line("swiglu", rows, r * kFfn * 10, [&](cudaStream_t s) { SwiGlu(rows, s); });
    Line("embed", rows, r * kHidden * 6, [&](cudaStream_t s) { Embed(rows, s); });
  }

  void Layers(int32_t rows, bool gated) {
    const double us = Measure(2, [&](int32_t, cudaStream_t stream) {
      for (int32_t layer = 0; layer < kLayers; ++layer) {
        Layer(layer, rows, gated, stream);
      }
    });
    const double bytes = static_cast<double>(kLayerBytes) * kLayers;
    std::printf(
        "  %d layers%s x %4d  %8.2f us a layer, weights %5.2f TB/s %5.1f %% of read, %6.1f "
        "TFLOP/s\n",
        kLayers,
        gated ? ", gated" : "       ",
        rows,
        us / kLayers,
        bytes / us / 1e6,
        bytes / us / 1e3 / ceilings.read_gbs * 100,
        bytes * rows / us / 1e6);
  }

  void Samples(int32_t rows) {
    const DeviceMemory workspace(cuda::SampleWorkspaceBytes(rows, kVocab));
    const DeviceMemory results(size_t{8} * static_cast<size_t>(rows));
    for (const auto& [name, row] :
         {std::pair{"greedy", cuda::SampleCudaRow{}},
          std::pair{"temperature", cuda::SampleCudaRow{.temperature = 1}},
          std::pair{"top_k 50", cuda::SampleCudaRow{.top_k = 50, .temperature = 1}},
          std::pair{"k 50 p .9",
                    cuda::SampleCudaRow{.top_k = 50, .top_p = 0.9F, .temperature = 0.7F}},
          std::pair{"top_p .9", cuda::SampleCudaRow{.top_p = 0.9F, .temperature = 0.7F}}}) {
      std::vector<cuda::SampleCudaRow> all(static_cast<size_t>(rows), row);
      for (int32_t i = 0; i < rows; ++i) {
        all[static_cast<size_t>(i)].logits_row = i;
        all[static_cast<size_t>(i)].seed = static_cast<uint64_t>(i);
      }
      const DeviceMemory device_rows(all);
      Line(name, rows, 4.0 * rows * kVocab, [&](cudaStream_t stream) {
        CheckCuda(cuda::LaunchSample({.logits = wide.as<float>(),
                                      .vocab_size = kVocab,
                                      .rows = device_rows.as<cuda::SampleCudaRow>(),
                                      .num_rows = rows,
                                      .results = results.as<cuda::SampleCudaResult>(),
                                      .workspace = workspace.as()},
                                     stream),
                  "sample");
      });
    }
  }
};

int Main() {
  Bench bench;
  CheckCuda(cuda::FindHopperDevice(0, bench.device), "device");
  if (bench.device.encode_tensor_map == nullptr) {
    std::printf("SKIPPED: not an sm_90 device\n");
    return 0;
  }
  FillRandom<<<4096, 256>>>(bench.pool.as<__nv_bfloat16>(), kPoolBytes / 2, 5, 0.02F);
  for (const DeviceMemory* memory :
       {&bench.x, &bench.projected, &bench.wide, &bench.norm_weight, &bench.angles}) {
    FillFloats<<<1024, 256>>>(memory->as<float>(), static_cast<int64_t>(memory->bytes() / 4), 20);
  }
  bench.slots.Fill(0);
  bench.token_ids.Fill(0);
  bench.chain.Fill(0);
  CheckCuda(cudaDeviceSynchronize(), "fill");
  CuBlas cublas;
  bench.ceilings = MeasureCeilings(bench.pool, bench.device.num_sms, cublas);
  for (const int32_t rows : {1, 32, 256, 8192}) {
    bench.Kernels(rows);
  }
  for (const int32_t rows : {1, 8, 32, 64, 128, 256}) {
    bench.Layers(rows, false);
    bench.Layers(rows, true);
  }
  for (const int32_t rows : {1, 8, 16, 32}) {
    bench.CompareChain(rows);
    bench.Chains(rows, {});
    for (const int32_t shared : {128, 192, 224}) {
      bench.Chains(rows, {.shared_bytes = shared << 10});
    }
  }
  FillFloats<<<1024, 256>>>(
      bench.wide.as<float>(), static_cast<int64_t>(bench.wide.bytes() / 4), 30);
  for (const int32_t rows : {1, 32, 256}) {
    bench.Samples(rows);
  }
  return 0;
}

}  // namespace
}  // namespace ringserve::bench

int main() {
  return ringserve::bench::Main();
}
