// The rows of one step as arrays: what the planner, the model and the sampler are given. Reused
// from step to step, so that steady decoding allocates nothing.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/cache/block_pool.h"
#include "engine/plan/scheduler.h"
#include "engine/request.h"
#include "engine/sample/sampler.h"
#include "engine/sequence.h"
#include "kernels/tile_plan.h"

namespace ringserve {

struct StepBatch {
  static constexpr int32_t kAllLayers = std::numeric_limits<int32_t>::max();

  std::vector<int32_t> token_ids;
  std::vector<int64_t> positions;  // of the rows, then of the sink keys of all sequences
  std::vector<int64_t> slots;
  std::vector<int64_t> sink_slots;      // as many as rows
  bool writes_sinks = false;            // some entry of sink_slots is not -1
  std::vector<TileSequence> sequences;  // in the order of the plan
  std::vector<BlockEntry> entries;

  // The same of local layers, where they have a ring of their own; else empty.
  std::vector<int64_t> local_slots;
  std::vector<TileSequence> local_sequences;
  std::vector<BlockEntry> local_entries;

  // The prompts that an encoder reads first, as Model's EncoderStep has them; none: empty.
  struct Source {
    std::vector<int32_t> token_ids;
    std::vector<int64_t> slots;
    std::vector<int64_t> scratch_slots;
    std::vector<TileSequence> sequences;
    std::vector<BlockEntry> entries;  // in scratch blocks
    int32_t first_layer = 0;
    int32_t end_layer = kAllLayers;
  } source;

  // The rows over encoded prompts, in models with an encoder.
  std::vector<TileSequence> cross_sequences;
  std::vector<BlockEntry> cross_entries;
  // Rows whose logits are wanted, ascending, and what for; results of the same index.
  std::vector<int32_t> logits_rows;
  std::vector<SampleRow> sample_rows;
  std::vector<ScoredToken> results;
  // Rows whose hidden states are wanted, ascending, and [hidden_rows.size(), hidden_dim] of these.
  std::vector<int32_t> hidden_rows;
  std::vector<float> hidden;
  // Of each entry of the plan: whose rows they are, their first result and hidden state, and what
  // they dropped from the window.
  std::vector<uint64_t> request_ids;
  std::vector<int32_t> first_results;
  std::vector<int32_t> first_hidden;
  std::vector<std::optional<ContextNoticeEvent>> notices;

  // An encoder's included.
  int64_t num_rows() const {
    return static_cast<int64_t>(token_ids.size() + source.token_ids.size());
  }

  // Replaces the contents: moves the scheduled sequences on and collects their rows.
  void Build(std::span<const ScheduledRows> plan,
             std::span<const std::unique_ptr<Sequence>> all_sequences,
             int64_t step);

  // The same by hand: Clear, then the rows of each session, which it has just appended, from
  // `first_position` on (counted from its text_start); what their logits are wanted for is the
  // caller's to add. Without sinks.
  void Clear();
  void AddRows(const Session& session, int64_t first_position, std::span<const int32_t> ids);

  // After Build: some layers of an encoder over a prompt, but not the last, beside the plan.
  void AddLayers(std::span<const int32_t> prompt,
                 int32_t block_size,
                 int32_t first_layer,
                 int32_t end_layer);

  // Adds each block that the step reads or writes, at least once.
  void CollectBlocks(int32_t block_size, std::vector<int32_t>& blocks) const;
  // From blocks to their places in the device pool: all must be there.
  void Place(const BlockPool& pool, int32_t block_size);

 private:
  void Add(const ScheduledRows& rows, Sequence& sequence, int64_t step);
  void WantResults(const ScheduledRows& rows, Sequence& sequence, int64_t first_position);
  void WantReadings(const ScheduledRows& rows, Sequence& sequence, int64_t first_position);
  void AddSource(const Session& session, std::span<const int32_t> prompt);
  void AddPrompt(std::span<const int32_t> prompt, int32_t block_size);
  void AddCross(const Session& session, const TileSequence& rows);
};

}  // namespace ringserve
