#include "engine/step_batch.h"

#include <algorithm>
#include <cstddef>

#include "engine/base/check.h"
#include "engine/cache/block_pool.h"

namespace ringserve {

void StepBatch::Build(std::span<const ScheduledRows> plan,
                      std::span<const std::unique_ptr<Sequence>> all_sequences,
                      int64_t step) {
  token_ids.clear();
  positions.clear();
  slots.clear();
  sink_slots.clear();
  writes_sinks = false;
  sequences.clear();
  entries.clear();
  logits_rows.clear();
  sample_rows.clear();
  request_ids.clear();
  first_results.clear();
  notices.clear();
  int32_t num_rows = 0;
  for (const ScheduledRows& rows : plan) {
    num_rows += rows.num_rows;
  }
  // Sink keys come after all rows, wherever in the plan their sequence stands.
  positions.resize(static_cast<size_t>(num_rows));
  for (const ScheduledRows& rows : plan) {
    Add(rows, *all_sequences[static_cast<size_t>(rows.sequence)], step);
  }
  results.resize(sample_rows.size());
}

void StepBatch::Add(const ScheduledRows& rows, Sequence& sequence, int64_t step) {
  const Session& session = sequence.session();
  const int64_t first_position = session.position();
  const auto first_row = static_cast<int32_t>(token_ids.size());
  request_ids.push_back(sequence.request_id());
  first_results.push_back(static_cast<int32_t>(sample_rows.size()));
  const std::span<const int32_t> ids = sequence.Advance(rows, step);
  token_ids.insert(token_ids.end(), ids.begin(), ids.end());
  notices.push_back(sequence.TakeNotice());
  for (int32_t i = 0; i < rows.num_rows; ++i) {
    const int64_t position = first_position + i;
    positions[static_cast<size_t>(first_row) + static_cast<size_t>(i)] = position;
    slots.push_back(session.Slot(position));
    sink_slots.push_back(session.SinkSlot(position));
    writes_sinks = writes_sinks || sink_slots.back() >= 0;
    const bool is_last = i == rows.num_rows - 1;
    if (is_last && rows.is_sampled) {
      logits_rows.push_back(first_row + i);
      sample_rows.push_back(sequence.RowToSample());
      sequence.ExpectToken(static_cast<int32_t>(sample_rows.size()) - 1);
    } else if (rows.is_prefill && sequence.IsScored(position)) {
      logits_rows.push_back(first_row + i);
      sample_rows.push_back(sequence.RowToScore(position));
    }
  }
  const auto first_entry = static_cast<int32_t>(entries.size());
  session.AppendContext(static_cast<int32_t>(positions.size()), entries);
  if (session.HasSinkEntry()) {
    for (int64_t i = 0; i < session.sink_size(); ++i) {
      positions.push_back(session.SinkPosition() + i);
    }
  }
  sequences.push_back({.first_row = first_row,
                       .num_rows = rows.num_rows,
                       .first_position = first_position,
                       .first_entry = first_entry,
                       .num_entries = static_cast<int32_t>(entries.size()) - first_entry});
}

void StepBatch::CollectBlocks(int32_t block_size, std::vector<int32_t>& blocks) const {
  for (const BlockEntry& entry : entries) {
    blocks.push_back(entry.block);  // the rows' own slots are part of the context
  }
  for (const int64_t slot : sink_slots) {
    if (slot >= 0) {
      blocks.push_back(static_cast<int32_t>(slot / block_size));
    }
  }
}

void StepBatch::Place(const BlockPool& pool, int32_t block_size) {
  const auto place = [&](int64_t& slot) {
    const auto block = static_cast<int32_t>(slot / block_size);
    RS_DCHECK(pool.is_on_device(block));
    slot = int64_t{pool.place(block)} * block_size + slot % block_size;
  };
  for (int64_t& slot : slots) {
    place(slot);
  }
  for (int64_t& slot : sink_slots) {
    if (slot >= 0) {
      place(slot);
    }
  }
  for (BlockEntry& entry : entries) {
    RS_DCHECK(pool.is_on_device(entry.block));
    entry.block = pool.place(entry.block);
  }
}

}  // namespace ringserve
