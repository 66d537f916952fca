#include "engine/step_batch.h"

#include <algorithm>
#include <cstddef>

#include "engine/base/check.h"
#include "engine/cache/block_pool.h"

namespace ringserve {

void StepBatch::Clear() {
  token_ids.clear();
  positions.clear();
  slots.clear();
  sink_slots.clear();
  writes_sinks = false;
  sequences.clear();
  entries.clear();
  local_slots.clear();
  local_sequences.clear();
  local_entries.clear();
  source.token_ids.clear();
  source.slots.clear();
  source.scratch_slots.clear();
  source.sequences.clear();
  source.entries.clear();
  source.first_layer = 0;
  source.end_layer = kAllLayers;
  cross_sequences.clear();
  cross_entries.clear();
  logits_rows.clear();
  sample_rows.clear();
  request_ids.clear();
  first_results.clear();
  hidden_rows.clear();
  first_hidden.clear();
  notices.clear();
}

void StepBatch::Build(std::span<const ScheduledRows> plan,
                      std::span<const std::unique_ptr<Sequence>> all_sequences,
                      int64_t step) {
  Clear();
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
  request_ids.push_back(sequence.request_id());
  first_results.push_back(static_cast<int32_t>(sample_rows.size()));
  first_hidden.push_back(static_cast<int32_t>(hidden_rows.size()));
  const std::span<const int32_t> ids = sequence.Advance(rows, step);
  if (rows.num_source_rows > 0) {
    AddSource(session, sequence.request().prompt);
  }
  const int64_t first_position = session.position() - rows.num_rows - session.text_start();
  AddRows(session, first_position, ids);
  notices.push_back(sequence.TakeNotice());
  if (sequence.is_reading()) {
    WantReadings(rows, sequence, first_position);
  } else {
    WantResults(rows, sequence, first_position);
  }
}

void StepBatch::WantResults(const ScheduledRows& rows, Sequence& sequence, int64_t first_position) {
  const int32_t first_row = sequences.back().first_row;
  for (int32_t i = 0; i < rows.num_rows; ++i) {
    const int64_t position = first_position + i;
    const bool is_last = i == rows.num_rows - 1;
    if (rows.is_sampled && (is_last || !rows.is_prefill)) {
      logits_rows.push_back(first_row + i);
      sample_rows.push_back(sequence.RowToSample(rows.is_prefill ? 0 : i));
      sequence.ExpectToken(static_cast<int32_t>(sample_rows.size()) - 1);
    } else if (rows.is_prefill && sequence.IsScored(position)) {
      logits_rows.push_back(first_row + i);
      sample_rows.push_back(sequence.RowToScore(position));
    }
  }
}

void StepBatch::WantReadings(const ScheduledRows& rows,
                             Sequence& sequence,
                             int64_t first_position) {
  const int32_t first_row = sequences.back().first_row;
  for (int32_t i = 0; i < rows.num_rows; ++i) {
    if (sequence.IsPooled(first_position + i)) {
      hidden_rows.push_back(first_row + i);
    } else if (sequence.IsScored(first_position + i)) {
      logits_rows.push_back(first_row + i);
      sample_rows.push_back(sequence.RowToScore(first_position + i));
    }
  }
  if (rows.is_sampled) {
    sequence.ExpectToken(static_cast<int32_t>(sample_rows.size()) - 1);  // nothing comes after it
  }
}

void StepBatch::AddRows(const Session& session,
                        int64_t first_position,
                        std::span<const int32_t> ids) {
  const auto first_row = token_ids.size();
  token_ids.insert(token_ids.end(), ids.begin(), ids.end());
  // Build has made room: its sink keys come behind.
  positions.resize(std::max(positions.size(), token_ids.size()));
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t position = first_position + static_cast<int64_t>(i);
    positions[first_row + i] = position;
    slots.push_back(session.Slot(session.text_start() + position));
    sink_slots.push_back(session.SinkSlot(session.text_start() + position));
    writes_sinks = writes_sinks || sink_slots.back() >= 0;
  }
  const auto first_entry = static_cast<int32_t>(entries.size());
  session.AppendContext(static_cast<int32_t>(positions.size()), entries);
  if (session.HasSinkEntry()) {
    for (int64_t i = 0; i < session.sink_size(); ++i) {
      positions.push_back(session.SinkPosition() + i);
    }
  }
  sequences.push_back({.first_row = static_cast<int32_t>(first_row),
                       .num_rows = static_cast<int32_t>(ids.size()),
                       .first_position = first_position,
                       .first_entry = first_entry,
                       .num_entries = static_cast<int32_t>(entries.size()) - first_entry});
  if (session.shape().has_local()) {
    for (size_t i = 0; i < ids.size(); ++i) {
      local_slots.push_back(session.LocalSlot(first_position + static_cast<int64_t>(i)));
    }
    TileSequence local = sequences.back();
    local.first_entry = static_cast<int32_t>(local_entries.size());
    session.AppendLocalContext(local_entries);
    local.num_entries = static_cast<int32_t>(local_entries.size()) - local.first_entry;
    local_sequences.push_back(local);
  }
  if (session.source_len() > 0) {
    AddCross(session, sequences.back());
  }
}

void StepBatch::AddSource(const Session& session, std::span<const int32_t> prompt) {
  for (int64_t position = 0; position < static_cast<int64_t>(prompt.size()); ++position) {
    source.slots.push_back(session.Slot(position));
  }
  AddPrompt(prompt, session.shape().block_size);
}

void StepBatch::AddLayers(std::span<const int32_t> prompt,
                          int32_t block_size,
                          int32_t first_layer,
                          int32_t end_layer) {
  AddPrompt(prompt, block_size);
  source.first_layer = first_layer;
  source.end_layer = end_layer;
}

// In scratch blocks of its own, behind those of the prompts before.
void StepBatch::AddPrompt(std::span<const int32_t> prompt, int32_t block_size) {
  const int32_t first_block = source.entries.empty() ? 0 : source.entries.back().block + 1;
  const auto length = static_cast<int32_t>(prompt.size());
  source.sequences.push_back({.first_row = static_cast<int32_t>(source.token_ids.size()),
                              .num_rows = length,
                              .first_entry = static_cast<int32_t>(source.entries.size()),
                              .num_entries = CeilDiv(length, block_size)});
  source.token_ids.insert(source.token_ids.end(), prompt.begin(), prompt.end());
  for (int32_t position = 0; position < length; ++position) {
    source.scratch_slots.push_back(int64_t{first_block} * block_size + position);
  }
  for (int32_t first = 0; first < length; first += block_size) {
    source.entries.push_back({.block = first_block + first / block_size,
                              .num_keys = std::min(block_size, length - first),
                              .position = first});
  }
}

void StepBatch::AddCross(const Session& session, const TileSequence& rows) {
  TileSequence cross = rows;
  cross.first_entry = static_cast<int32_t>(cross_entries.size());
  session.AppendSourceContext(cross_entries);
  cross.num_entries = static_cast<int32_t>(cross_entries.size()) - cross.first_entry;
  cross_sequences.push_back(cross);
}

void StepBatch::CollectBlocks(int32_t block_size, std::vector<int32_t>& blocks) const {
  for (const BlockEntry& entry : entries) {
    blocks.push_back(entry.block);  // the rows' own slots are part of the context
  }
  for (const BlockEntry& entry : local_entries) {
    blocks.push_back(entry.block);
  }
  for (const BlockEntry& entry : cross_entries) {
    blocks.push_back(entry.block);  // and so are those of prompts that are encoded now
  }
  for (const int64_t slot : sink_slots) {
    if (slot >= 0) {
      blocks.push_back(static_cast<int32_t>(slot / block_size));
    }
  }
}

void StepBatch::Place(const BlockPool& pool, int32_t block_size) {
  // Places count from the first of their group: each group has a pool of its own on the device.
  const auto place_of = [&](int32_t block) {
    RS_DCHECK(pool.is_on_device(block));
    return pool.place(block) - pool.first_place(pool.group_of(block));
  };
  const auto place = [&](int64_t& slot) {
    const auto block = static_cast<int32_t>(slot / block_size);
    slot = int64_t{place_of(block)} * block_size + slot % block_size;
  };
  for (int64_t& slot : slots) {
    place(slot);
  }
  for (int64_t& slot : local_slots) {
    place(slot);
  }
  for (int64_t& slot : sink_slots) {
    if (slot >= 0) {
      place(slot);
    }
  }
  for (int64_t& slot : source.slots) {
    place(slot);
  }
  for (std::vector<BlockEntry>* const list : {&entries, &local_entries, &cross_entries}) {
    for (BlockEntry& entry : *list) {
      entry.block = place_of(entry.block);
    }
  }
}

}  // namespace ringserve
