#include <algorithm>
#include <iterator>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/attention_item.h"
#include "kernels/attention_kernel.h"
#include "kernels/attention_partial.h"
#include "kernels/thread_pool.h"

namespace ringserve {
namespace {

// Below this many floats to fold, waking other threads costs more than it saves.
constexpr int64_t kMinParallelFold = int64_t{1} << 15;

// Enough for threads of unequal speed.
constexpr int32_t kRunsPerThread = 4;

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

// As many items abreast as leave each thread several runs, so that all end together.
void CutIntoRuns(const AttentionArgs& args,
                 const AttentionKernel& kernel,
                 int32_t num_threads,
                 std::vector<int64_t>& runs) {
  const std::span<const WorkItem> items = args.plan->items;
  const int64_t most = CeilDiv<int64_t>(std::ssize(items), int64_t{kRunsPerThread} * num_threads);
  runs.clear();
  for (int64_t first = 0; first < std::ssize(items);) {
    runs.push_back(first);
    first += ItemsAbreast(args, kernel, items.subspan(first), most);
  }
  runs.push_back(std::ssize(items));
}

const AttentionKernel& ChooseKernel(const AttentionArgs& args) {
  if (args.q_dtype == DType::kBf16 && args.kv.layout.dtype == DType::kBf16) {
    if (AttentionKernelAmx() != nullptr && args.kv.layout.head_dim % 32 == 0) {
      return *AttentionKernelAmx();
    }
    if (AttentionKernelBf16() != nullptr) {
      return *AttentionKernelBf16();
    }
  }
  return AttentionKernelF32();
}

}  // namespace

void AttentionCpu(const AttentionArgs& args, ThreadPool& pool) {
  const TilePlan& plan = *args.plan;
  const AttentionKernel& kernel = ChooseKernel(args);
  // Where each run of items abreast begins, and the end of the last.
  static thread_local std::vector<int64_t> runs;
  CutIntoRuns(args, kernel, pool.num_threads(), runs);
  const int64_t num_runs = std::ssize(runs) - 1;
  pool.ParallelFor(num_runs, 1, [&, firsts = runs.data()](int64_t first, int64_t last) {
    static thread_local AttentionScratch scratch;
    for (int64_t i = first; i < last; ++i) {
      // Runs of one length are handed out in turn.
      const int64_t following = i + pool.num_threads();
      AttentionItem(args,
                    kernel,
                    std::span(plan.items).subspan(firsts[i], firsts[i + 1] - firsts[i]),
                    following < num_runs ? &plan.items[firsts[following]] : nullptr,
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
