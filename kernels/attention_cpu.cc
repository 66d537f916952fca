#include <algorithm>

#include "kernels/attention.h"
#include "kernels/attention_item.h"
#include "kernels/attention_kernel.h"
#include "kernels/attention_partial.h"
#include "kernels/thread_pool.h"

namespace ringserve {
namespace {

// Below this many floats to fold, waking other threads costs more than it saves.
constexpr int64_t kMinParallelFold = int64_t{1} << 15;

void Merge(const AttentionArgs& args, const MergeItem& merge) {
  const TilePlan& plan = *args.plan;
  const int32_t head_dim = args.kv.layout.head_dim;
  const int64_t record_size = kRecordHead + head_dim;
  for (int32_t i = 0; i < merge.num_rows; ++i) {
    for (int32_t h = 0; h < merge.num_heads; ++h) {
      float folded[kRecordHead + 256] = {0, kNoKeys};
      for (int32_t s = 0; s < merge.num_sources; ++s) {
        const int64_t partial =
            plan.merge_sources[merge.first_source + s] + int64_t{i} * merge.num_heads + h;
        FoldRecord(args.workspace + partial * record_size, head_dim, folded);
      }
      WriteRow(args, merge.first_row + i, merge.first_head + h, folded);
    }
  }
}

}  // namespace

void AttentionCpu(const AttentionArgs& args, ThreadPool& pool) {
  const TilePlan& plan = *args.plan;
  const AttentionKernel* bf16 = args.q_dtype == DType::kBf16 && args.kv.layout.dtype == DType::kBf16
                                    ? AttentionKernelBf16()
                                    : nullptr;
  const AttentionKernel& kernel = bf16 != nullptr ? *bf16 : AttentionKernelF32();
  const auto num_items = static_cast<int64_t>(plan.items.size());
  pool.ParallelFor(num_items, 1, [&](int64_t first, int64_t last) {
    static thread_local AttentionScratch scratch;
    for (int64_t i = first; i < last; ++i) {
      // Items of one length are handed out in turn.
      const int64_t following = i + pool.num_threads();
      AttentionItem(args,
                    kernel,
                    plan.items[i],
                    following < num_items ? &plan.items[following] : nullptr,
                    scratch)
          .Run();
    }
  });
  const auto merges = static_cast<int64_t>(plan.merges.size());
  const auto merge_all = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      Merge(args, plan.merges[i]);
    }
  };
  if (plan.num_partials * args.kv.layout.head_dim < kMinParallelFold) {
    merge_all(0, merges);
  } else {
    pool.ParallelFor(merges, 1, merge_all);
  }
}

}  // namespace ringserve
