// An AttentionCase on the device, and the comparison of its kernels with the reference.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/plan/tile_planner.h"
#include "kernels/attention_cuda.h"
#include "kernels/attention_plan_cuda.h"
#include "tests/support/attention_case.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/device_memory.h"
#include "tests/support/half_words.h"

namespace ringserve {

using cuda::AttentionKernels;

inline const cuda::AttentionDevice& Device() {
  static const cuda::AttentionDevice device = [] {
    cuda::AttentionDevice found;
    CheckCuda(cuda::FindAttentionDevice(0, found), "FindAttentionDevice");
    return found;
  }();
  return device;
}

inline std::vector<AttentionKernels> Families() {
  if (Device().hopper) {
    return {AttentionKernels::kPortable, AttentionKernels::kBest};
  }
  return {AttentionKernels::kPortable};
}

// float16 from bf16, exactly but for the tiniest values.
inline std::vector<uint16_t> AsHalf(const std::byte* data, size_t bytes) {
  std::vector<uint16_t> halves(bytes / 2);
  for (size_t i = 0; i < halves.size(); ++i) {
    Bf16 value;
    std::memcpy(&value, data + 2 * i, sizeof value);
    halves[i] = ToWord(ToFloat(value), DType::kF16);
  }
  return halves;
}

// An AttentionCase on the device.
class DeviceCase {
 public:
  explicit DeviceCase(AttentionCase& c, DType dtype = DType::kBf16)
      : c_(c),
        dtype_(dtype),
        pool_(Upload(c.pool())),
        q_(Upload(c.queries())),
        angles_(c.angles()),
        sink_logits_(c.sink_logits()),
        position_bias_(c.position_bias()) {}

  // The output's 16-bit words; every element must have been written.
  std::vector<uint16_t> Run(const TileOptions& options, AttentionKernels kernels) {
    c_.Plan(options);
    const AttentionArgs& host = c_.args();
    const KvLayout& layout = host.kv.layout;
    cuda::PackedAttentionPlan packed;
    const char* problem =
        cuda::PackAttentionPlan(c_.plan(), {.layout = layout, .num_heads = host.num_heads}, packed);
    if (problem != nullptr) {
      FAIL(problem);
    }
    std::vector<std::byte> image(cuda::PackedBytes(packed));
    const DeviceMemory plan(image.size());
    cuda::AttentionCudaArgs args;
    args.plan = cuda::WritePlan(packed, image.data(), plan.as());
    CheckCuda(cudaMemcpy(plan.as(), image.data(), image.size(), cudaMemcpyHostToDevice), "plan");
    const DeviceMemory workspace(
        cuda::AttentionWorkspaceBytes(Device(), layout.head_dim, packed.num_partials));
    workspace.Fill(0xff);
    const int64_t zeroed = cuda::AttentionZeroedBytes(packed.num_partials);
    CheckCuda(cudaMemset(workspace.as(), 0, zeroed), "counters");
    const DeviceMemory out(c_.num_rows() * host.out_stride * 2);
    out.Fill(0xff);
    args.q = q_.as();
    args.kv = host.kv;
    args.kv.layout.dtype = dtype_;
    args.kv.pool = pool_.as();
    args.num_blocks = static_cast<int32_t>(pool_.bytes() / layout.block_bytes());
    args.out = out.as();
    args.q_stride = host.q_stride;
    args.out_stride = host.out_stride;
    args.num_rows = static_cast<int32_t>(c_.num_rows());
    args.num_heads = host.num_heads;
    args.scale = host.scale;
    args.softcap = host.softcap;
    args.sink_logits = host.sink_logits == nullptr ? nullptr : sink_logits_.as<float>();
    args.angles = angles_.as<float>();
    args.position_bias = host.position_bias == nullptr ? nullptr : position_bias_.as<float>();
    args.bias_reach = host.bias_reach;
    args.dtype = dtype_;
    args.workspace = workspace.as();
    args.max_partials = packed.num_partials;
    REQUIRE(cuda::CheckAttentionCudaArgs(args) == nullptr);
    CheckCuda(cuda::LaunchAttention(Device(), args, kernels, nullptr), "LaunchAttention");
    CheckCuda(cudaDeviceSynchronize(), "attention");
    const auto counters = workspace.Download<int32_t>();
    CHECK(std::all_of(
        counters.begin(), counters.begin() + zeroed / 4, [](int32_t c) { return c == 0; }));
    return out.Download<uint16_t>();
  }

  std::vector<float> Values(const std::vector<uint16_t>& words) const {
    return Widen(words, dtype_);
  }

 private:
  template <typename T>
  DeviceMemory Upload(const std::vector<T>& values) const {
    if (dtype_ == DType::kF16) {
      return DeviceMemory(
          AsHalf(reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T)));
    }
    return DeviceMemory(values);
  }

  AttentionCase& c_;
  DType dtype_;
  DeviceMemory pool_;
  DeviceMemory q_;
  DeviceMemory angles_;
  DeviceMemory sink_logits_;
  DeviceMemory position_bias_;
};

inline constexpr int64_t kSplitSize = 128;

// What the kernels need of a plan: splits are whole tiles.
inline TileOptions Options(const AttentionCase& c, int64_t split_size = kSplitSize) {
  TileOptions options = c.Options();
  options.split_size = split_size;
  return options;
}

// The rule of STYLE.md section 11, for every kernel family and order.
inline void CheckAgainstReference(AttentionCase& c,
                                  const std::vector<int64_t>& windows,
                                  DType dtype = DType::kBf16,
                                  bool causal = true) {
  DeviceCase device(c, dtype);
  for (const int64_t window : windows) {
    TileOptions options = Options(c);
    options.window = window;
    options.causal = causal;
    c.Plan(options);
    const std::vector<double> truth = c.Reference<double>(DType::kF32);
    const std::vector<float> plain =
        Round(c.Reference<float>(dtype == DType::kBf16 ? DType::kBf16 : DType::kF32), dtype);
    const double limit = 2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), dtype);
    for (const AttentionKernels kernels : Families()) {
      for (const auto order : {TileOrder::kQMajor, TileOrder::kKMajor}) {
        options.order = order;
        const bool portable = kernels == AttentionKernels::kPortable;
        const AttentionArgs& args = c.args();
        CAPTURE(args.num_heads, args.kv.layout.num_kv_heads, args.kv.layout.head_dim);
        CAPTURE(args.kv.layout.block_size, args.softcap, args.sink_logits != nullptr, window);
        CAPTURE(portable, order == TileOrder::kQMajor, DTypeName(dtype), causal, args.bias_reach);
        CHECK(MaxError(device.Values(device.Run(options, kernels)), truth) <= limit);
      }
    }
  }
}

inline void CheckAgainstReference(const AttentionShape& shape,
                                  const std::vector<AttentionSequence>& sequences,
                                  const std::vector<int64_t>& windows,
                                  DType dtype = DType::kBf16) {
  AttentionCase c(shape, sequences);
  CheckAgainstReference(c, windows, dtype);
}

inline AttentionShape DeviceShape(int32_t num_heads, int32_t num_kv_heads, int32_t head_dim) {
  return {.num_heads = num_heads,
          .num_kv_heads = num_kv_heads,
          .head_dim = head_dim,
          .block_size = 64,
          .out_dtype = DType::kBf16};
}

}  // namespace ringserve
