#include "tests/bench/ceiling.h"

#include <atomic>

#include "kernels/cpu_features.h"
#include "kernels/thread_pool.h"
#include "tests/bench/ceiling_amx.h"
#include "tests/bench/ceiling_bf16.h"

// Register blocks are arrays of vectors, which types of unknown size cannot form.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/ceiling.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Words = HWY_CAPPED(uint32_t, 16);
using Floats = HWY_CAPPED(float, 16);

// `num_streams` equal parts of the piece side by side.
uint32_t Read(const uint32_t* data, int64_t count, int64_t num_streams) {
  const Words d;
  constexpr auto kLanes = static_cast<int64_t>(hn::MaxLanes(Words()));
  constexpr int64_t kVectors = 64 / kLanes;
  hn::Vec<Words> sum[kVectors];
  for (auto& part : sum) {
    part = hn::Zero(d);
  }
  const int64_t stream = count / num_streams;
  for (int64_t i = 0; i < stream; i += kVectors * kLanes) {
    for (int64_t s = 0; s < num_streams; ++s) {
      const uint32_t* from = data + s * stream + i;
      for (int64_t v = 0; v < kVectors; ++v) {
        sum[v] = hn::Add(sum[v], hn::Load(d, from + v * kLanes));
      }
    }
  }
  for (int64_t v = 1; v < kVectors; ++v) {
    sum[0] = hn::Add(sum[0], sum[v]);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum[0]));
}

// Enough chains to hide the latency of two units, and no more than the registers hold.
#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3) || HWY_ARCH_ARM_A64
constexpr int kChains = 24;
#else
constexpr int kChains = 12;
#endif

float Multiply(int64_t num_steps, int64_t* flops) {
  const Floats d;
  *flops = num_steps * kChains * static_cast<int64_t>(hn::MaxLanes(d)) * 2;
  const auto w = hn::Set(d, 0.5F);
  const auto x = hn::Set(d, 0.25F);
  hn::Vec<Floats> acc[kChains];
  for (int i = 0; i < kChains; ++i) {
    acc[i] = hn::Set(d, static_cast<float>(i));
  }
  for (int64_t step = 0; step < num_steps; ++step) {
    HWY_UNROLL(24)
    for (int i = 0; i < kChains; ++i) {
      acc[i] = hn::MulAdd(acc[i], w, x);
    }
  }
  for (int i = 1; i < kChains; ++i) {
    acc[0] = hn::Add(acc[0], acc[i]);
  }
  return hn::GetLane(hn::SumOfLanes(d, acc[0]));
}

}  // namespace HWY_NAMESPACE
}  // namespace ringserve

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace ringserve {
namespace {

HWY_EXPORT(Read);
HWY_EXPORT(Multiply);

constexpr int64_t kReadPiece = 1 << 20;
constexpr int64_t kSteps = 20000;
constexpr int64_t kPiecesPerThread = 16;

}  // namespace

void ReadAll(const std::byte* data, int64_t num_bytes, int32_t num_streams, ThreadPool& pool) {
  std::atomic<uint32_t> sink = 0;  // so that no load can be left out
  pool.ParallelFor(num_bytes / kReadPiece, 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const auto* from = reinterpret_cast<const uint32_t*>(data + piece * kReadPiece);
      sink += HWY_DYNAMIC_DISPATCH(Read)(from, kReadPiece / 4, num_streams);
    }
  });
}

double MultiplyInRegisters(DType dtype, ThreadPool& pool) {
  const bool amx = dtype == DType::kBf16 && HasAmxBf16();
  const bool bf16_dot = dtype == DType::kBf16 && HasBf16Dot();
  std::atomic<int64_t> flops = 0;
  std::atomic<float> sink = 0;
  pool.ParallelFor(kPiecesPerThread * pool.num_threads(), 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      int64_t piece_flops = kSteps * (amx ? kAmxStepFlops : kBf16DotStepFlops);
      sink = amx        ? MultiplyAmx(kSteps)
             : bf16_dot ? MultiplyBf16Dot(kSteps)
                        : HWY_DYNAMIC_DISPATCH(Multiply)(kSteps, &piece_flops);
      flops += piece_flops;
    }
  });
  return static_cast<double>(flops);
}

}  // namespace ringserve

#endif
