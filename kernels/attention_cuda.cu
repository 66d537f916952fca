#include <algorithm>
#include <bit>

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/attention_cuda.h"
#include "kernels/attention_kernels_cuda.h"

namespace ringserve::cuda {
namespace {

constexpr int64_t kCounterBytes = 256;
// Folding more sources than this takes so long that a kernel of its own, with more blocks, is worth
// its launch. Decode of 1 x 32k, 16 sources, on an H200: 37.5 us without, 36.6 with; 8 x 8k, 4
// sources: 66.6 and 68.4.
constexpr int32_t kMaxMergeSources = 8;

using EncodeTensorMap = decltype(&cuTensorMapEncodeTiled);

// What only the general kernels do, for all of a call.
bool IsGeneral(const AttentionCudaArgs& args) {
  if (args.softcap > 0 || args.sink_logits != nullptr || args.position_bias != nullptr) {
    return true;
  }
  const int32_t head_dim = args.kv.layout.head_dim;
  // The general kernels lay partial results out as for 128; a merge reads one layout.
  if (head_dim == 96) {
    return args.plan.num_general_prefill + args.plan.num_general_decode > 0;
  }
  return head_dim != PaddedHeadDim(head_dim);
}

int64_t ScratchBytes(const AttentionDevice& device, int32_t head_dim) {
  return PrefillScratchFloats(device.num_sms, head_dim) * static_cast<int64_t>(sizeof(float));
}

CUtensorMapDataType MapType(DType dtype) {
  return dtype == DType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

// No promotion to larger reads: with 256 bytes, copying random blocks by boxes of 64 columns runs
// at 4123 GB/s instead of 4560 on an H200.
bool EncodeMaps(const AttentionDevice& device, const AttentionCudaArgs& args, TensorMaps& maps) {
  const auto encode = reinterpret_cast<EncodeTensorMap>(device.encode_tensor_map);
  const KvLayout& layout = args.kv.layout;
  const auto row_bytes = static_cast<cuuint64_t>(layout.head_dim * DTypeBytes(layout.dtype));
  const cuuint32_t steps[3] = {1, 1, 1};
  {
    const auto box_rows =
        static_cast<cuuint32_t>(std::min(layout.block_size, TileKeys(layout.head_dim)));
    const cuuint64_t sizes[2] = {
        static_cast<cuuint64_t>(layout.head_dim),
        static_cast<cuuint64_t>(args.num_blocks * layout.block_bytes()) / row_bytes};
    const cuuint64_t strides[1] = {row_bytes};
    const cuuint32_t box[2] = {64, box_rows};
    maps.box_shift = std::countr_zero(box_rows);
    if (encode(&maps.kv,
               MapType(layout.dtype),
               2,
               args.kv.pool,
               sizes,
               strides,
               box,
               steps,
               CU_TENSOR_MAP_INTERLEAVE_NONE,
               CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_NONE,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
      return false;
    }
  }
  if (args.plan.num_prefill == 0) {
    return true;
  }
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(layout.head_dim),
                               static_cast<cuuint64_t>(args.num_heads),
                               static_cast<cuuint64_t>(args.num_rows)};
  const cuuint64_t strides[2] = {row_bytes, static_cast<cuuint64_t>(args.q_stride) * 2};
  const auto heads = static_cast<cuuint32_t>(args.plan.prefill_heads);
  const cuuint32_t box[3] = {64, heads, kPrefillRows / heads};
  maps.query_heads = args.plan.prefill_heads;
  return encode(&maps.queries,
                MapType(layout.dtype),
                3,
                const_cast<void*>(args.q),
                sizes,
                strides,
                box,
                steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_NONE,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

AttentionCudaParams MakeParams(const AttentionDevice& device, const AttentionCudaArgs& args) {
  const KvLayout& layout = args.kv.layout;
  const int64_t row_bytes = int64_t{layout.head_dim} * DTypeBytes(layout.dtype);
  AttentionCudaParams params = {};
  params.window = args.plan.window;
  params.tiles_per_split = args.plan.tiles_per_split;
  params.blocks = args.plan.blocks;
  params.merges = args.plan.merges;
  params.sources = args.plan.sources;
  params.q = args.q;
  params.out = args.out;
  params.q_stride = args.q_stride;
  params.out_stride = args.out_stride;
  params.scale_log2 = (args.softcap > 0 ? args.softcap : args.scale) * 1.4426950408889634F;
  params.cap_scale = args.softcap > 0 ? args.scale / args.softcap : 0;
  params.sink_logits = args.sink_logits;
  params.angles = args.angles;
  params.rows = args.plan.rows;
  params.position_bias = args.position_bias;
  params.bias_reach = args.bias_reach;
  params.bias_scale = 1 / (args.softcap > 0 ? args.softcap : args.scale);
  params.head_dim = layout.head_dim;
  params.pool = args.kv.pool;
  params.block_bytes = layout.block_bytes();
  params.layer_offset = args.kv.layer * layout.layer_bytes();
  params.plane_bytes = layout.plane_bytes();
  params.value_offset = layout.num_kv_heads * layout.plane_bytes();
  params.block_rows = static_cast<int32_t>(layout.block_bytes() / row_bytes);
  params.layer_rows = static_cast<int32_t>(params.layer_offset / row_bytes);
  params.value_rows = static_cast<int32_t>(params.value_offset / row_bytes);
  params.block_shift = std::countr_zero(static_cast<uint32_t>(layout.block_size));
  std::byte* at = args.workspace;
  params.counters = reinterpret_cast<int32_t*>(at);
  at += kCounterBytes;
  params.merge_counters = reinterpret_cast<int32_t*>(at);
  at += AttentionZeroedBytes(args.max_partials) - kCounterBytes;
  params.scratch = reinterpret_cast<float*>(at);
  at += ScratchBytes(device, layout.head_dim);
  params.partial_out = reinterpret_cast<float*>(at);  // first: read 16 bytes at a time
  at += args.max_partials * PaddedHeadDim(layout.head_dim) * static_cast<int64_t>(sizeof(float));
  params.partial_sums = reinterpret_cast<float2*>(at);
  return params;
}

// The two lists of items that one kind of kernels takes.
struct ItemLists {
  const AttentionItem* prefill;
  int32_t num_prefill;
  const AttentionItem* decode;
  int32_t num_decode;
};

// Launches nothing for an empty list.
template <typename Prefill, typename Decode>
cudaError_t LaunchLists(AttentionCudaParams params,
                        const ItemLists& lists,
                        const Prefill& prefill,
                        const Decode& decode) {
  if (lists.num_prefill > 0) {
    params.items = lists.prefill;
    params.num_items = lists.num_prefill;
    if (const cudaError_t error = prefill(params); error != cudaSuccess) {
      return error;
    }
  }
  if (lists.num_decode > 0) {
    params.items = lists.decode;
    params.num_items = lists.num_decode;
    return decode(params);
  }
  return cudaSuccess;
}

template <typename T, int32_t kHeadDim, bool kGeneral>
cudaError_t LaunchPortableLists(const AttentionCudaParams& params,
                                const LaunchLimits& limits,
                                const ItemLists& lists,
                                cudaStream_t stream) {
  return LaunchLists(
      params,
      lists,
      [&](const AttentionCudaParams& p) {
        return LaunchPrefill<T, kHeadDim, kGeneral>(p, limits, stream);
      },
      [&](const AttentionCudaParams& p) {
        return LaunchDecode<T, kHeadDim, kGeneral>(p, limits, stream);
      });
}

ItemLists PlainLists(const AttentionPlanView& plan) {
  return {plan.prefill, plan.num_prefill, plan.decode, plan.num_decode};
}

ItemLists GeneralLists(const AttentionPlanView& plan) {
  return {
      plan.general_prefill, plan.num_general_prefill, plan.general_decode, plan.num_general_decode};
}

// All of it by the general kernels.
template <typename T, int32_t kHeadDim>
cudaError_t LaunchGeneral(const AttentionDevice& device,
                          const AttentionCudaArgs& args,
                          cudaStream_t stream) {
  const LaunchLimits limits = {.num_sms = device.num_sms, .shared_bytes = device.shared_bytes};
  AttentionCudaParams params = MakeParams(device, args);
  params.merge_counters = nullptr;
  for (const ItemLists& lists : {PlainLists(args.plan), GeneralLists(args.plan)}) {
    const cudaError_t error = LaunchPortableLists<T, kHeadDim, true>(params, limits, lists, stream);
    if (error != cudaSuccess) {
      return error;
    }
  }
  return args.plan.num_merges > 0 ? LaunchMerge<T, kHeadDim, true>(params, args.plan, false, stream)
                                  : cudaSuccess;
}

RowLimits RowLimitsOf(const AttentionCudaArgs& args) {
  return {.num_tiles = args.plan.row_tiles,
          .num_heads = std::min(args.num_heads / args.kv.layout.num_kv_heads, kDecodeRows)};
}

// One row, whose items all have a cluster of multiprocessors.
bool IsLoneRow(const AttentionDevice& device, const AttentionCudaArgs& args) {
  return args.plan.row_tiles > 0 && args.num_rows == 1 &&
         args.plan.num_decode * kRowBlocks <= device.num_sms;
}

AppendedRows RowsToAppend(const AttentionCudaArgs& args) {
  if (args.rope == nullptr) {
    return {};
  }
  return {.qkv = args.rope->qkv,
          .angles = args.rope->angles,
          .slots = args.rope->slots,
          .num_heads = args.num_heads,
          .num_kv_heads = args.kv.layout.num_kv_heads};
}

template <typename T, int32_t kHeadDim>
cudaError_t LaunchRow(const AttentionDevice& device,
                      const AttentionCudaArgs& args,
                      cudaStream_t stream) {
  AttentionCudaParams params = MakeParams(device, args);
  params.items = args.plan.decode;
  params.num_items = args.plan.num_decode;
  return LaunchRowHopper<T, kHeadDim>(params, RowsToAppend(args), RowLimitsOf(args), stream);
}

template <typename T, int32_t kHeadDim>
cudaError_t LaunchFor(const AttentionDevice& device,
                      const AttentionCudaArgs& args,
                      bool hopper,
                      cudaStream_t stream) {
  if constexpr (kHeadDim == 64 || kHeadDim == 128) {
    if (args.rope != nullptr && IsLoneRow(device, args)) {
      return LaunchRow<T, kHeadDim>(device, args, stream);
    }
  }
  const LaunchLimits limits = {.num_sms = device.num_sms, .shared_bytes = device.shared_bytes};
  AttentionCudaParams params = MakeParams(device, args);
  const ItemLists general = GeneralLists(args.plan);
  if (!hopper || args.plan.merge_sources > kMaxMergeSources || general.num_prefill > 0 ||
      general.num_decode > 0) {
    params.merge_counters = nullptr;
  }
  cudaError_t error = cudaSuccess;
  if constexpr (kHeadDim == PaddedHeadDim(kHeadDim)) {
    error = LaunchPortableLists<T, kHeadDim, true>(params, limits, general, stream);
  }
  if (error != cudaSuccess) {
    return error;
  }
  if (!hopper) {
    error = LaunchPortableLists<T, kHeadDim, false>(params, limits, PlainLists(args.plan), stream);
  } else {
    TensorMaps maps;
    if (!EncodeMaps(device, args, maps)) {
      return cudaErrorInvalidValue;
    }
    error = LaunchLists(
        params,
        PlainLists(args.plan),
        [&](const AttentionCudaParams& p) {
          return LaunchPrefillHopper<T, kHeadDim>(p, limits, maps, stream);
        },
        [&](const AttentionCudaParams& p) {
          return LaunchDecodeHopper<T, kHeadDim>(p, RowsToAppend(args), limits, maps, stream);
        });
  }
  if (error != cudaSuccess || args.plan.num_merges == 0 || params.merge_counters != nullptr) {
    return error;
  }
  return LaunchMerge<T, kHeadDim, false>(params, args.plan, hopper, stream);
}

template <typename T>
cudaError_t LaunchType(const AttentionDevice& device,
                       const AttentionCudaArgs& args,
                       bool hopper,
                       cudaStream_t stream) {
  if (IsGeneral(args)) {
    switch (PaddedHeadDim(args.kv.layout.head_dim)) {
      case 64:
        return LaunchGeneral<T, 64>(device, args, stream);
      case 128:
        return LaunchGeneral<T, 128>(device, args, stream);
      default:
        return LaunchGeneral<T, 256>(device, args, stream);
    }
  }
  switch (args.kv.layout.head_dim) {
    case 64:
      return LaunchFor<T, 64>(device, args, hopper, stream);
    case 96:
      return LaunchFor<T, 96>(device, args, hopper, stream);
    case 128:
      return LaunchFor<T, 128>(device, args, hopper, stream);
    case 256:
      return LaunchFor<T, 256>(device, args, hopper, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t FindAttentionDevice(int32_t device, AttentionDevice& found) {
  int32_t major = 0;
  int32_t minor = 0;
  cudaError_t error = cudaSuccess;
  const auto get = [&](cudaDeviceAttr attribute, int32_t& value) {
    if (error == cudaSuccess) {
      error = cudaDeviceGetAttribute(&value, attribute, device);
    }
  };
  get(cudaDevAttrMultiProcessorCount, found.num_sms);
  get(cudaDevAttrMaxSharedMemoryPerBlockOptin, found.shared_bytes);
  get(cudaDevAttrComputeCapabilityMajor, major);
  get(cudaDevAttrComputeCapabilityMinor, minor);
  if (error != cudaSuccess) {
    return error;
  }
  found.hopper = major == 9 && minor == 0;  // sm_90a code runs nowhere else
  if (!found.hopper) {
    return cudaSuccess;
  }
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  error = cudaGetDriverEntryPointByVersion(
      "cuTensorMapEncodeTiled", &found.encode_tensor_map, 12000, cudaEnableDefault, &result);
  return error == cudaSuccess && result != cudaDriverEntryPointSuccess ? cudaErrorUnknown : error;
}

int64_t AttentionZeroedBytes(int64_t max_partials) {
  return kCounterBytes + RoundUp<int64_t>(max_partials * 4, 256);
}

int64_t AttentionWorkspaceBytes(const AttentionDevice& device,
                                int32_t head_dim,
                                int64_t max_partials) {
  return AttentionZeroedBytes(max_partials) + ScratchBytes(device, head_dim) +
         max_partials * (PaddedHeadDim(head_dim) + 2) * static_cast<int64_t>(sizeof(float));
}

const char* CheckAttentionCudaArgs(const AttentionCudaArgs& args) {
  const KvLayout& layout = args.kv.layout;
  const int32_t head_dim = layout.head_dim;
  if (head_dim < 8 || head_dim > 256 || head_dim % 8 != 0) {
    return "head_dim must be a multiple of 8 in [8, 256]";
  }
  if (args.dtype == DType::kF32 || layout.dtype != args.dtype) {
    return "queries, keys and values must all be bf16 or all f16";
  }
  if (layout.block_size < 8 || layout.block_size > 256 ||
      !std::has_single_bit(static_cast<uint32_t>(layout.block_size))) {
    return "block_size must be a power of two from 8 to 256";
  }
  if (layout.num_kv_heads < 1 || args.num_heads < 1 || args.num_heads % layout.num_kv_heads != 0) {
    return "num_heads must be a multiple of num_kv_heads";
  }
  if (args.num_blocks < 1 ||
      args.num_blocks * layout.block_bytes() / (head_dim * 2) > (int64_t{1} << 31) - 1) {
    return "the pool must have from 1 to 2^31 - 1 key and value rows";
  }
  if (!(args.scale > 0)) {
    return "scale must be positive";
  }
  if (!(args.softcap >= 0)) {
    return "softcap must be positive, or 0";
  }
  if (args.plan.has_sinks && args.angles == nullptr) {
    return "angles must not be null if the plan has sinks";
  }
  if (args.position_bias != nullptr && (args.bias_reach < 0 || args.plan.has_sinks)) {
    return "position_bias needs a bias_reach of at least 0 and a plan without sinks";
  }
  if (args.plan.num_partials > args.max_partials) {
    return "the plan has more partial results than the workspace";
  }
  if (args.q_stride % 8 != 0 || args.out_stride % 8 != 0) {
    return "row strides must be multiples of 8 elements";
  }
  const auto address = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
  if (address(args.q) % 16 != 0 || address(args.out) % 16 != 0 ||
      address(args.kv.pool) % 128 != 0 || address(args.workspace) % 256 != 0) {
    return "q and out must be 16-byte aligned, the pool 128-byte, the workspace 256-byte";
  }
  return nullptr;
}

bool TakesRope(const AttentionDevice& device,
               const AttentionCudaArgs& args,
               const RopeAppendArgs& rope,
               AttentionKernels kernels) {
  const int32_t head_dim = args.kv.layout.head_dim;
  const bool has_kernel = device.hopper && kernels == AttentionKernels::kBest &&
                          (head_dim == 64 || head_dim == 128) && !IsGeneral(args);
  const bool fits = rope.num_rows == args.num_rows &&
                    (IsLoneRow(device, args) ||
                     args.plan.own_keys == args.num_rows * args.kv.layout.num_kv_heads);
  const bool is_plain =
      rope.q_norm == nullptr && rope.k_norm == nullptr && rope.sink_slots == nullptr;
  const bool is_same = rope.kv.pool == args.kv.pool && rope.kv.layer == args.kv.layer &&
                       rope.kv.layout.num_kv_heads == args.kv.layout.num_kv_heads &&
                       rope.q == args.q && rope.q_dtype == args.dtype &&
                       rope.num_heads == args.num_heads;
  return has_kernel && fits && is_plain && is_same;
}

int32_t RowBlockBytes(const AttentionDevice& device, const AttentionCudaArgs& args) {
  return args.rope != nullptr && IsLoneRow(device, args)
             ? RowSharedBytes(args.kv.layout.head_dim, RowLimitsOf(args))
             : 0;
}

cudaError_t LaunchAttention(const AttentionDevice& device,
                            const AttentionCudaArgs& args,
                            AttentionKernels kernels,
                            cudaStream_t stream) {
  if (CheckAttentionCudaArgs(args) != nullptr ||
      (args.rope != nullptr && !TakesRope(device, args, *args.rope, kernels))) {
    return cudaErrorInvalidValue;
  }
  const bool hopper = device.hopper && kernels == AttentionKernels::kBest;
  return args.dtype == DType::kBf16 ? LaunchType<__nv_bfloat16>(device, args, hopper, stream)
                                    : LaunchType<__half>(device, args, hopper, stream);
}

}  // namespace ringserve::cuda
