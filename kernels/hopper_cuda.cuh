// Hopper's own building blocks (sm_90a): transaction barriers, the tensor copy engine, warpgroup
// matrix products.
#pragma once

#include <cstdint>
#include <cstdio>

#include <cuda.h>

#include "kernels/cuda_util.cuh"

namespace ringserve::cuda {

// A barrier in shared memory that counts arrivals and bytes of copies. One phase ends when all
// arrivals and all announced bytes have come; waiters name the parity of the phase they wait for.
struct TransactionBarrier {
  uint64_t state;

  __device__ __forceinline__ uint32_t address() const { return SharedAddress(&state); }

  __device__ __forceinline__ void Init(uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals)
                 : "memory");
  }

  __device__ __forceinline__ void Arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory");
  }

  // As `times` arrivals.
  __device__ __forceinline__ void Arrive(uint32_t times) const {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(address()), "r"(times)
                 : "memory");
  }

  __device__ __forceinline__ void ArriveExpecting(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()),
                 "r"(bytes)
                 : "memory");
  }

  __device__ __forceinline__ bool TryWait(uint32_t parity) const {
    uint32_t done;
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(address()), "r"(parity)
        : "memory");
    return done != 0;
  }

  __device__ __forceinline__ void Wait(uint32_t parity) const {
#ifdef RINGSERVE_CUDA_SPIN_LIMIT  // for debugging: a lost arrival becomes an error, not a hang
    for (int64_t spins = 0; !TryWait(parity); ++spins) {
      if (spins > RINGSERVE_CUDA_SPIN_LIMIT) {
        printf("barrier %d of block %d, thread %d, parity %d\n",
               static_cast<int>(address()),
               static_cast<int>(blockIdx.x),
               static_cast<int>(threadIdx.x),
               static_cast<int>(parity));
        __trap();
      }
    }
#else
    while (!TryWait(parity)) {
    }
#endif
  }
};

// Makes initialised barriers visible to the copy engine; a block barrier follows.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Orders this thread's ordinary shared-memory accesses before later ones by the copy engine and the
// tensor cores.
__device__ __forceinline__ void FenceAsyncProxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Orders this thread's ordinary accesses of device memory before those by the copy engine that
// another thread asks for once it knows of them, and the other way round.
__device__ __forceinline__ void FenceAsyncProxyGlobal() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

__device__ __forceinline__ void PrefetchTensorMap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

__device__ __forceinline__ void LoadBox2(
    const CUtensorMap& map, TransactionBarrier& barrier, uint32_t to, int32_t x, int32_t y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(&map),
      "r"(barrier.address()),
      "r"(x),
      "r"(y)
      : "memory");
}

__device__ __forceinline__ void LoadBox3(const CUtensorMap& map,
                                         TransactionBarrier& barrier,
                                         uint32_t to,
                                         int32_t x,
                                         int32_t y,
                                         int32_t z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(&map),
      "r"(barrier.address()),
      "r"(x),
      "r"(y),
      "r"(z)
      : "memory");
}

// `bytes` contiguous bytes, a multiple of 16, both sides 16-byte aligned.
__device__ __forceinline__ void LoadBulk(TransactionBarrier& barrier,
                                         uint32_t to,
                                         const void* from,
                                         uint32_t bytes) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from),
      "r"(bytes),
      "r"(barrier.address())
      : "memory");
}

// Place in a ring of stages and the parity of its barrier's phase.
template <int32_t kStages>
struct RingPlace {
  int32_t stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Operand in shared memory, 128-byte swizzle. `panel_bytes` (to the next 64 columns) matters only
// for operands whose rows are contiguous along N.
__device__ __forceinline__ uint64_t OperandDescriptor(uint32_t address, uint32_t panel_bytes) {
  constexpr uint64_t kSwizzle128 = 1ULL << 62;
  constexpr uint64_t kGroupStride = (1024ULL >> 4) << 32;  // eight rows of 128 bytes
  return kSwizzle128 | kGroupStride | (static_cast<uint64_t>(panel_bytes >> 4) << 16) |
         ((address & 0x3ffffU) >> 4);
}

__device__ __forceinline__ void WgmmaFence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void WgmmaCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int32_t kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The same, as a text that the compiler does not recognise as the same: two of them in the arms of
// a branch stay there.
template <int32_t kPending>
__device__ __forceinline__ void WgmmaWaitAgain() {
  asm volatile("wgmma.wait_group.sync.aligned %0; //" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving computations of these registers over what comes next: a use over
// the wait for an asynchronous product, or work meant to run under one to behind its wait.
template <int32_t kCount>
__device__ __forceinline__ void FenceRegisters(float (&values)[kCount]) {
#pragma unroll
  for (int32_t i = 0; i < kCount; ++i) {
    asm volatile("" : "+f"(values[i])::"memory");
  }
}

template <int32_t kCount>
__device__ __forceinline__ void FenceRegisters(uint32_t (&values)[kCount]) {
#pragma unroll
  for (int32_t i = 0; i < kCount; ++i) {
    asm volatile("" : "+r"(values[i])::"memory");
  }
}

template <int32_t kRegisters>
__device__ __forceinline__ void RaiseRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int32_t kRegisters>
__device__ __forceinline__ void LowerRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace ringserve::cuda
