// Building blocks of the CUDA kernels that every architecture since sm_80 has: asynchronous copies,
// matrix products of one warp, reductions over four lanes, and the swizzled layout of a tile.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace ringserve::cuda {

// A tile of R rows x D 16-bit elements lies in shared memory as panels of 64 columns (128 bytes a
// row), one after the other. Within a panel the eight 16-byte pieces of a row are permuted by the
// row, as the tensor copy engine's 128-byte swizzle does, so that eight rows of one column meet
// eight different banks. Panels begin at multiples of 1024 bytes.
inline constexpr int32_t kPanelColumns = 64;
inline constexpr int32_t kPanelRowBytes = 128;

__device__ __forceinline__ uint32_t PanelOffset(int32_t row, int32_t piece) {
  return static_cast<uint32_t>(row * kPanelRowBytes + ((piece ^ (row & 7)) << 4));
}

// Offset of 16-byte piece `piece` (counted over all panels) of `row`.
template <int32_t kRows>
__device__ __forceinline__ uint32_t TileOffset(int32_t row, int32_t piece) {
  return static_cast<uint32_t>((piece >> 3) * kRows * kPanelRowBytes) + PanelOffset(row, piece & 7);
}

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory; zeros if `valid` is false (nothing is read then).
__device__ __forceinline__ void CopyAsync16(uint32_t to, const void* from, bool valid) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
      : "memory");
}

// The same with 4 bytes.
__device__ __forceinline__ void CopyAsync4(uint32_t to, const void* from, bool valid) {
  asm volatile(
      "cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0)
      : "memory");
}

__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int32_t kPending>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ void LoadMatrix4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void LoadMatrix4Transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// d += a * b, 16x8x16, float accumulators: lane 4g + t holds rows g and g + 8, columns 2t, 2t + 1.
template <typename T>
__device__ __forceinline__ void MatrixProduct(float (&d)[4],
                                              const uint32_t (&a)[4],
                                              uint32_t b0,
                                              uint32_t b1);

template <>
__device__ __forceinline__ void MatrixProduct<__nv_bfloat16>(float (&d)[4],
                                                             const uint32_t (&a)[4],
                                                             uint32_t b0,
                                                             uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void MatrixProduct<__half>(float (&d)[4],
                                                      const uint32_t (&a)[4],
                                                      uint32_t b0,
                                                      uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats rounded to nearest even, the first in the low half.
template <typename T>
__device__ __forceinline__ uint32_t Pack(float low, float high);

template <>
__device__ __forceinline__ uint32_t Pack<__nv_bfloat16>(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

template <>
__device__ __forceinline__ uint32_t Pack<__half>(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

template <typename T>
__device__ __forceinline__ float2 Unpack(uint32_t packed);

template <>
__device__ __forceinline__ float2 Unpack<__nv_bfloat16>(uint32_t packed) {
  return {__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000U)};
}

template <>
__device__ __forceinline__ float2 Unpack<__half>(uint32_t packed) {
  return __half22float2(*reinterpret_cast<const __half2*>(&packed));
}

// 2^x, the special function unit's (error below 2 ulp; 2^-inf = 0 and 2^0 = 1 exactly).
__device__ __forceinline__ float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Over the four lanes that hold a row of an accumulator.
__device__ __forceinline__ float QuadMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffU, value, 2));
}

__device__ __forceinline__ float QuadSum(float value) {
  value = __fadd_rn(value, __shfl_xor_sync(0xffffffffU, value, 1));
  return __fadd_rn(value, __shfl_xor_sync(0xffffffffU, value, 2));
}

// Programmatic dependent launch: a kernel launched with it may start before the one before it in
// the stream has ended; nothing that one wrote may be touched before this wait, which lasts until
// it has. Without effect before sm_90 and in ordinary launches.
__device__ __forceinline__ void WaitForPreviousKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel in the stream start as soon as there is room for it.
__device__ __forceinline__ void AllowNextKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// What a row's results are multiplied with. The kernel that wrote it must have been waited for.
__device__ __forceinline__ float RowScale(const float* row_scales, int64_t row) {
  return row_scales == nullptr ? 1.0F : __ldcg(row_scales + row);
}

// Barrier `id` (1 to 15) among `threads` threads of the block.
__device__ __forceinline__ void NamedBarrier(int32_t id, int32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void NamedBarrierArrive(int32_t id, int32_t threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace ringserve::cuda
