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
    auto runner = std::unique_ptr<ModelRunner>(new ModelRunner(config, shape, tiles, backend));
    const int64_t num_blocks = WorstCaseBlocks(shape, INT64_MAX);
    const StepLimits limits = {
        .block_size = shape.block_size,
        .max_rows = max_rows,
        .max_sink_rows = shape.sink_size,
        .max_logits_rows = max_rows,
        .max_partials =
            MaxPartials(runner->tiles_, max_rows, 1, shape.buffer_size + 2 * shape.block_size),
        .max_entries = num_blocks,
    };
    ASSIGN_OR_RETURN(runner->model_, Model::Create(config, weights, limits, backend));
    runner->kv_ = {.block_size = shape.block_size,
                   .num_layers = config.num_layers,
                   .num_kv_heads = config.num_kv_heads,
                   .head_dim = config.head_dim,
                   .dtype = weights.dtype()};
    const auto pool_bytes = static_cast<size_t>(num_blocks * runner->kv_.block_bytes());
    ASSIGN_OR_RETURN(runner->kv_pool_, backend.Allocate(pool_bytes, MemoryKind::kDevice));
    // A stray read of a slot that no row may see shows itself: all ones is NaN in f32 and bf16.
    const std::vector<std::byte> ones(pool_bytes, std::byte{0xff});
    RETURN_IF_ERROR(backend.Copy(runner->kv_pool_.data(), ones.data(), pool_bytes));
    RETURN_IF_ERROR(backend.Synchronize());
    runner->blocks_ = std::make_unique<BlockPool>(static_cast<int32_t>(num_blocks));
    runner->session_ = std::make_unique<Session>(shape, INT64_MAX, *runner->blocks_);
    return runner;
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
          std::min<int64_t>({chunk, static_cast<int64_t>(token_ids.size()), session_->MaxRows()}));
      RETURN_IF_ERROR(Step(token_ids.first(rows), wanted, logits));
      token_ids = token_ids.subspan(rows);
    }
    return logits;
  }

  int64_t position() const { return session_->position(); }

  const KvLayout& kv() const { return kv_; }

 private:
  ModelRunner(const ModelConfig& config,
              const SessionShape& shape,
              TileOptions tiles,
              Backend& backend)
      : config_(config), shape_(shape), tiles_(tiles), backend_(backend) {
    tiles_.num_heads = config.num_heads;
    tiles_.num_kv_heads = config.num_kv_heads;
  }

  absl::Status Step(std::span<const int32_t> token_ids, Wanted wanted, std::vector<float>& logits) {
    const int64_t first = session_->position();
    const auto num_rows = static_cast<int32_t>(token_ids.size());
    session_->Append(token_ids, Session::Phase::kPrefill);
    std::vector<int64_t> positions;
    std::vector<int64_t> slots;
    std::vector<int64_t> sink_slots;
    std::vector<int32_t> logits_rows;
    for (int32_t row = 0; row < num_rows; ++row) {
      positions.push_back(first + row);
      slots.push_back(session_->Slot(first + row));
      sink_slots.push_back(session_->SinkSlot(first + row));
      if (wanted == Wanted::kAllRows || row == num_rows - 1) {
        logits_rows.push_back(row);
      }
    }
    for (int32_t j = 0; session_->HasSinkEntry() && j < shape_.sink_size; ++j) {
      positions.push_back(session_->SinkPosition() + j);
    }
    std::vector<BlockEntry> entries;
    session_->AppendContext(num_rows, entries);
    const TileSequence sequence = {.first_row = 0,
                                   .num_rows = num_rows,
                                   .first_position = first,
                                   .first_entry = 0,
                                   .num_entries = static_cast<int32_t>(entries.size())};
    PlanTiles({{&sequence, 1}, entries}, tiles_, plan_);
    RETURN_IF_ERROR(
        model_->Run({token_ids, positions, slots, sink_slots, &plan_}, kv_pool_.data(), kv_));
    ASSIGN_OR_RETURN(const float* const rows, model_->ComputeLogits(logits_rows));
    const size_t first_logit = logits.size();
    logits.resize(first_logit + logits_rows.size() * static_cast<size_t>(config_.vocab_size));
    RETURN_IF_ERROR(backend_.Copy(reinterpret_cast<std::byte*>(logits.data() + first_logit),
                                  reinterpret_cast<const std::byte*>(rows),
                                  (logits.size() - first_logit) * sizeof(float)));
    return backend_.Synchronize();
  }

  const ModelConfig config_;
  const SessionShape shape_;
  TileOptions tiles_;
  Backend& backend_;
  KvLayout kv_;
  Buffer kv_pool_;
  std::unique_ptr<BlockPool> blocks_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Model> model_;
  TilePlan plan_;
};

}  // namespace ringserve
