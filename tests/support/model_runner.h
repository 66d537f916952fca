// Runs one session of a model on a backend, without engine or scheduler: the shortest way from
// token ids to logits through the real rings, planner, kernels and layer loop.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/cache/block_pool.h"
#include "engine/model/model.h"
#include "engine/model/weights.h"
#include "engine/plan/tile_planner.h"
#include "engine/session.h"

namespace ringserve {

class ModelRunner {
 public:
  // `shape` bounds the context; at most `max_rows` rows in one step.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Create(const ModelConfig& config,
                                                             const Weights& weights,
                                                             const SessionShape& shape,
                                                             int32_t max_rows,
                                                             TileOptions tiles,
                                                             Backend& backend) {
    auto runner = std::unique_ptr<ModelRunner>(new ModelRunner(config, backend));
    StepLimits limits = {.block_size = shape.block_size,
                         .max_rows = max_rows,
                         .max_sink_rows = shape.sink_size,
                         .max_logits_rows = max_rows};
    if (config.has_encoder()) {
      limits.max_encoder_rows = static_cast<int32_t>(shape.buffer_size);
    }
    limits.max_positions = shape.slides ? 0 : std::min(shape.buffer_size, config.max_positions);
    tiles.num_heads = config.num_heads;
    tiles.num_kv_heads = config.num_kv_heads;
    for (const LayerGroup& layers : LayerGroups(config)) {
      Group& group = runner->groups_.emplace_back();
      group.tiles = tiles;
      group.tiles.window = layers.window;
      group.shape =
          layers.window == kNoWindow
              ? shape
              : MakeWindowShape(layers.window, shape.block_size, shape.block_size, INT64_MAX);
      group.kv = {.block_size = shape.block_size,
                  .num_layers = static_cast<int32_t>(layers.layers.size()),
                  .num_kv_heads = config.num_kv_heads,
                  .head_dim = config.head_dim,
                  .dtype = weights.dtype()};
      const int64_t max_keys = group.shape.buffer_size + int64_t{2} * shape.block_size;
      limits.max_partials = std::max(
          limits.max_partials,
          MaxPartials(group.tiles, std::max(max_rows, limits.max_encoder_rows), 1, max_keys));
      limits.max_entries =
          std::max(limits.max_entries, WorstCaseBlocks(group.shape, INT64_MAX).global);
      RETURN_IF_ERROR(runner->MakePool(group));
    }
    ASSIGN_OR_RETURN(runner->model_, Model::Create(config, weights, limits, backend));
    return runner;
  }

  // Models with an encoder: what it reads, with the first step. Once, before Feed.
  void SetPrompt(std::span<const int32_t> token_ids) {
    prompt_.assign(token_ids.begin(), token_ids.end());
  }

  enum class Wanted { kAllRows, kLastRow };

  // Appends the tokens in steps of at most `chunk` rows; the logits of all rows, or of the last row
  // of each step.
  absl::StatusOr<std::vector<float>> Feed(std::span<const int32_t> token_ids,
                                          int32_t chunk,
                                          Wanted wanted = Wanted::kAllRows) {
    std::vector<float> logits;
    while (!token_ids.empty()) {
      const auto rows = static_cast<size_t>(
          std::min<int64_t>({chunk, static_cast<int64_t>(token_ids.size()), MaxRows()}));
      RETURN_IF_ERROR(Step(token_ids.first(rows), wanted, logits));
      token_ids = token_ids.subspan(rows);
    }
    return logits;
  }

  int64_t position() const {
    const Session& session = *groups_.front().session;
    return session.position() - session.text_start();
  }

  const KvLayout& kv() const { return groups_.front().kv; }

  // Blocks that the session holds, all groups together.
  int64_t num_blocks_held() const {
    int64_t held = 0;
    for (const Group& group : groups_) {
      held += group.blocks->num_references();
    }
    return held;
  }

 private:
  // Layers of one window, with rings and a pool of their own.
  struct Group {
    SessionShape shape;
    TileOptions tiles;
    KvLayout kv;
    Buffer pool;
    std::unique_ptr<BlockPool> blocks;
    std::unique_ptr<Session> session;
    // Of the step.
    TilePlan plan;
    std::vector<int64_t> slots;
    std::vector<BlockEntry> entries;
  };

  ModelRunner(const ModelConfig& config, Backend& backend) : config_(config), backend_(backend) {}

  absl::Status MakePool(Group& group) {
    const int64_t num_blocks = WorstCaseBlocks(group.shape, INT64_MAX).global;
    const auto bytes = static_cast<size_t>(num_blocks * group.kv.block_bytes());
    ASSIGN_OR_RETURN(group.pool, backend_.Allocate(bytes, MemoryKind::kDevice));
    // A stray read of a slot that no row may see shows itself: all ones is NaN in f32 and bf16.
    const std::vector<std::byte> ones(bytes, std::byte{0xff});
    RETURN_IF_ERROR(backend_.Copy(group.pool.data(), ones.data(), bytes));
    RETURN_IF_ERROR(backend_.Synchronize());
    group.blocks = std::make_unique<BlockPool>(static_cast<int32_t>(num_blocks));
    group.session = std::make_unique<Session>(group.shape, INT64_MAX, *group.blocks);
    return absl::OkStatus();
  }

  int64_t MaxRows() const {
    int64_t rows = INT64_MAX;
    for (const Group& group : groups_) {
      rows = std::min(rows, group.session->MaxRows());
    }
    return rows;
  }

  // Makes room for the rows of a step and plans its tiles.
  static void Plan(Group& group, std::span<const int32_t> token_ids) {
    const int64_t start = group.session->text_start();
    const int64_t first = group.session->position() - start;
    const auto num_rows = static_cast<int32_t>(token_ids.size());
    group.session->Append(token_ids, Session::Phase::kPrefill);
    group.slots.clear();
    for (int32_t row = 0; row < num_rows; ++row) {
      group.slots.push_back(group.session->Slot(start + first + row));
    }
    group.entries.clear();
    group.session->AppendContext(num_rows, group.entries);
    const TileSequence sequence = {.first_row = 0,
                                   .num_rows = num_rows,
                                   .first_position = first,
                                   .first_entry = 0,
                                   .num_entries = static_cast<int32_t>(group.entries.size())};
    PlanTiles({{&sequence, 1}, group.entries}, group.tiles, group.plan);
  }

  // What an encoder reads, where it has not yet, and what the rows see of it.
  void PlanSource(int32_t num_rows, StepInput& input) {
    Group& group = groups_.front();
    TileOptions tiles = group.tiles;
    tiles.causal = false;
    std::vector<BlockEntry> entries;
    group.session->AppendSourceContext(entries);
    const auto num_entries = static_cast<int32_t>(entries.size());
    const TileSequence rows = {
        .num_rows = num_rows, .first_position = position() - num_rows, .num_entries = num_entries};
    PlanTiles({{&rows, 1}, entries}, tiles, cross_plan_);
    input.cross_tiles = &cross_plan_;
    if (prompt_.empty()) {
      return;
    }
    source_slots_.clear();
    scratch_slots_.clear();
    const auto length = static_cast<int32_t>(prompt_.size());
    for (int32_t i = 0; i < length; ++i) {
      source_slots_.push_back(group.session->Slot(i));
      scratch_slots_.push_back(i);
    }
    for (int32_t i = 0; i < num_entries; ++i) {
      entries[static_cast<size_t>(i)].block = i;
    }
    const TileSequence source = {.num_rows = length, .num_entries = num_entries};
    PlanTiles({{&source, 1}, entries}, tiles, encoder_plan_);
    encoder_ = {prompt_, source_slots_, scratch_slots_, &encoder_plan_};
    input.encoder = &encoder_;
  }

  absl::Status Step(std::span<const int32_t> token_ids, Wanted wanted, std::vector<float>& logits) {
    if (!prompt_.empty()) {
      groups_.front().session->AppendSource(prompt_);
    }
    const int64_t first = position();
    const auto num_rows = static_cast<int32_t>(token_ids.size());
    for (Group& group : groups_) {
      Plan(group, token_ids);
    }
    const Session& session = *groups_.front().session;
    std::vector<int64_t> positions;
    std::vector<int64_t> sink_slots;
    std::vector<int32_t> logits_rows;
    for (int32_t row = 0; row < num_rows; ++row) {
      positions.push_back(first + row);
      sink_slots.push_back(session.SinkSlot(first + row));
      if (wanted == Wanted::kAllRows || row == num_rows - 1) {
        logits_rows.push_back(row);
      }
    }
    for (int32_t j = 0; session.HasSinkEntry() && j < session.sink_size(); ++j) {
      positions.push_back(session.SinkPosition() + j);
    }
    Group& main = groups_.front();
    LocalStep local;
    if (groups_.size() > 1) {
      local = {&groups_[1].plan, groups_[1].pool.data(), groups_[1].kv, groups_[1].slots};
    }
    StepInput input = {token_ids,
                       positions,
                       main.slots,
                       sink_slots,
                       &main.plan,
                       groups_.size() > 1 ? &local : nullptr};
    if (config_.has_encoder()) {
      PlanSource(num_rows, input);
    }
    RETURN_IF_ERROR(model_->Run(input, main.pool.data(), main.kv));
    prompt_.clear();
    ASSIGN_OR_RETURN(const float* const rows, model_->ComputeLogits(logits_rows));
    const size_t first_logit = logits.size();
    logits.resize(first_logit + logits_rows.size() * static_cast<size_t>(config_.vocab_size));
    RETURN_IF_ERROR(backend_.Copy(reinterpret_cast<std::byte*>(logits.data() + first_logit),
                                  reinterpret_cast<const std::byte*>(rows),
                                  (logits.size() - first_logit) * sizeof(float)));
    return backend_.Synchronize();
  }

  const ModelConfig config_;
  Backend& backend_;
  std::vector<Group> groups_;
  std::unique_ptr<Model> model_;
  // Of an encoder.
  std::vector<int32_t> prompt_;
  TilePlan cross_plan_;
  TilePlan encoder_plan_;
  std::vector<int64_t> source_slots_;
  std::vector<int64_t> scratch_slots_;
  EncoderStep encoder_;
};

}  // namespace ringserve
