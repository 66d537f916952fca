// An EngineLoop over the real layer loop and the hashing backend, with a clock that stands still,
// and what it must answer to a request.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/time/time.h>

#include "engine/base/check.h"
#include "engine/draft_model.h"
#include "engine/drafter.h"
#include "engine/engine_loop.h"
#include "engine/model/model.h"
#include "engine/model/weights.h"
#include "engine/plan/tile_planner.h"
#include "engine/sample/replay_digest.h"
#include "tests/support/fake_backend.h"
#include "tests/support/fake_sink.h"
#include "tests/support/manual_io.h"

namespace ringserve {

struct FakeEngineOptions {
  SessionShape shape = {.buffer_size = 32, .block_size = 8, .feedback_size = 32};
  EngineConfig::Scheduler scheduler = {.prefill_size = 16, .max_batch = 4, .max_queue = 8};
  EngineConfig::Sessions sessions = {
      .max_sessions = 1000, .idle_timeout_s = 0, .share_prefixes = false, .prefix_groups = {}};
  int32_t device_blocks = 64;
  int32_t host_blocks = 0;
  BlockPool::Tiers local_blocks = {};  // where the shape has a local ring
  int32_t max_logits_rows = 5;
  bool runs_ahead = false;  // as a device does
  Drafter* drafter = nullptr;
  bool has_draft_model = false;  // instead: the same model, over a ring of its own
  int32_t max_draft = 8;
  uint64_t model = 1;  // what a snapshot says of it
  DiskTier::Parts disk = {};
  ManualIo* io = nullptr;            // what the disk is waited for with
  std::string session_prefix = "s";  // of session ids
  std::string backend = "fake";
};

class FakeEngine {
 public:
  explicit FakeEngine(const FakeEngineOptions& options)
      : options_(options),
        config_(fake::TinyModel(options.shape.local_window)),
        backend_(config_, options.runs_ahead) {
    const TileOptions tiles = {.num_heads = config_.num_heads,
                               .num_kv_heads = config_.num_kv_heads,
                               .tile_size = options.shape.block_size};
    const int32_t max_rows = options.scheduler.prefill_size + options.scheduler.max_batch;
    const StepLimits limits = {
        .max_rows = max_rows,
        .max_sink_rows = options.scheduler.max_batch * options.shape.sink_size,
        .max_logits_rows = options.max_logits_rows,
        .max_partials = MaxPartials(tiles,
                                    max_rows,
                                    options.scheduler.max_batch,
                                    std::max(options.shape.buffer_size, options.shape.local_size) +
                                        int64_t{2} * options.shape.block_size)};
    model_ = *Model::Create(config_, weights(), limits, backend_);
    const bool has_local = options.shape.has_local();
    const KvLayout kv = {.block_size = options.shape.block_size,
                         .num_layers = has_local ? 1 : config_.num_layers,
                         .num_kv_heads = config_.num_kv_heads,
                         .head_dim = config_.head_dim,
                         .dtype = DType::kF32};
    pool_ = *backend_.Allocate(static_cast<size_t>(options.device_blocks * kv.block_bytes()),
                               MemoryKind::kDevice);
    host_pool_ = *backend_.Allocate(static_cast<size_t>(options.host_blocks * kv.block_bytes()),
                                    MemoryKind::kPinned);
    KvLayout local_kv = kv;
    // Room for a layer that is not there: blocks of the two sizes are not to pass for each other.
    local_kv.num_layers = has_local ? 2 : 0;
    local_pool_ = *backend_.Allocate(
        static_cast<size_t>(options.local_blocks.num_device * local_kv.block_bytes()),
        MemoryKind::kDevice);
    local_host_pool_ = *backend_.Allocate(
        static_cast<size_t>(options.local_blocks.num_host * local_kv.block_bytes()),
        MemoryKind::kPinned);
    EngineLoop::Parts parts;
    parts.local_blocks = options.local_blocks;
    parts.local_host_pool = local_host_pool_.data();
    parts.host_blocks = options.host_blocks;
    parts.host_pool = host_pool_.data();
    parts.runner = {.backend = &backend_,
                    .model = model_.get(),
                    .kv_pool = pool_.data(),
                    .kv = kv,
                    .tiles = tiles,
                    .local_tiles = std::nullopt,
                    .local_kv_pool = local_pool_.data(),
                    .local_kv = local_kv,
                    .vocab_size = config_.vocab_size};
    if (has_local) {
      parts.runner.local_tiles = tiles;
      parts.runner.local_tiles->window = options.shape.local_window;
    }
    parts.shape = options.shape;
    parts.scheduler = options.scheduler;
    parts.device_blocks = options.device_blocks;
    parts.eos_token_ids = config_.eos_token_ids;
    parts.sessions = options.sessions;
    parts.drafter = options.drafter;
    if (options.has_draft_model) {
      MakeDraftModel(parts.runner, limits);
      parts.drafter = drafter_.get();
    }
    parts.max_draft = options.max_draft;
    parts.clock = [this] { return now_; };
    parts.stopwatch = [this] { return Tick(); };
    parts.make_session_id = [this] {
      return options_.session_prefix + std::to_string(++last_session_);
    };
    parts.snapshot_key = {.model = options.model,
                          .backend = options.backend,
                          .kv = kv,
                          .vocab_size = config_.vocab_size,
                          .slides = options.shape.slides,
                          .sink_size = options.shape.sink_size,
                          .window = options.shape.window,
                          .local_kv = local_kv,
                          .local_window = options.shape.local_window};
    parts.disk = options.disk;
    if (parts.disk.files != nullptr) {
      // Small enough that sessions go in several.
      const int64_t piece = 2 * (std::max(kv.block_bytes(), local_kv.block_bytes()) +
                                 static_cast<int64_t>(kBlockChecksumBytes));
      disk_buffers_ = *backend_.Allocate(static_cast<size_t>(DiskTier::kNumPieces * piece),
                                         MemoryKind::kPinned);
      parts.disk.buffers = {disk_buffers_.data(), disk_buffers_.size()};
    }
    loop_ = std::make_unique<EngineLoop>(parts, sink_);
  }

  EngineLoop& loop() { return *loop_; }

  const EngineLoop& loop() const { return *loop_; }

  // A step, and a piece of work for the disk. False: there was neither.
  bool Advance() {
    const bool has_run = loop_->Step();
    const bool has_worked = options_.io != nullptr && options_.io->RunOne();
    return has_run || has_worked;
  }

  FakeBackend& backend() { return backend_; }

  FakeSink& sink() { return sink_; }

  // Null if there is none.
  const DraftModel* draft_model() const { return drafter_.get(); }

  const FakeEngineOptions& options() const { return options_; }

  const ModelConfig& config() const { return config_; }

  absl::Time now() const { return now_; }

  void Sleep(absl::Duration duration) { now_ += duration; }

  // Session calls, answered by one step, or by more if they have to wait; cancelled if all else has
  // come to rest.
  absl::StatusOr<SessionInfo> Create(const SessionOptions& options = {},
                                     const std::string& owner = "") {
    return Await<absl::StatusOr<SessionInfo>>(
        [&](SessionReply reply) { loop_->CreateSession(owner, options, std::move(reply)); });
  }

  absl::StatusOr<SessionInfo> Get(const std::string& id, const std::string& owner = "") {
    return Await<absl::StatusOr<SessionInfo>>(
        [&](SessionReply reply) { loop_->GetSession(owner, id, std::move(reply)); });
  }

  absl::StatusOr<std::vector<SessionInfo>> List(const std::string& owner = "") {
    return Await<absl::StatusOr<std::vector<SessionInfo>>>(
        [&](SessionListReply reply) { loop_->ListSessions(owner, std::move(reply)); });
  }

  absl::StatusOr<SessionInfo> Fork(const std::string& id,
                                   std::optional<int64_t> position = std::nullopt,
                                   const std::string& owner = "") {
    return Await<absl::StatusOr<SessionInfo>>([&](SessionReply reply) {
      loop_->ForkSession(owner, id, position, {.call_id = kCallId}, std::move(reply));
    });
  }

  absl::StatusOr<SessionInfo> Rollback(const std::string& id,
                                       int64_t position,
                                       const std::string& owner = "") {
    return Await<absl::StatusOr<SessionInfo>>([&](SessionReply reply) {
      loop_->RollbackSession(owner, id, position, {.call_id = kCallId}, std::move(reply));
    });
  }

  absl::StatusOr<SessionInfo> Close(const std::string& id, const std::string& owner = "") {
    return Await<absl::StatusOr<SessionInfo>>(
        [&](SessionReply reply) { loop_->CloseSession(owner, id, std::move(reply)); });
  }

  // A snapshot, all of it, by one step per piece.
  absl::StatusOr<std::string> Export(const std::string& id, const std::string& owner = "") {
    auto begun = Await<absl::StatusOr<std::unique_ptr<SessionExport>>>([&](ExportReply reply) {
      loop_->ExportSession(owner, id, {.call_id = kCallId}, std::move(reply));
    });
    RETURN_IF_ERROR(begun.status());
    std::string bytes;
    for (;;) {
      ASSIGN_OR_RETURN(const std::string piece,
                       Await<absl::StatusOr<std::string>>([&](SessionExport::PieceReply reply) {
                         (*begun)->Next(std::move(reply));
                       }));
      if (piece.empty()) {
        begun->reset();
        loop_->Step();  // it hears of the end
        return bytes;
      }
      bytes += piece;
    }
  }

  // In pieces of that size.
  absl::StatusOr<SessionInfo> Import(const std::string& bytes,
                                     size_t piece_bytes = 1000,
                                     const std::string& owner = "") {
    std::unique_ptr<SessionImport> arriving = loop_->ImportSession(owner, {.call_id = kCallId});
    for (size_t at = 0; at < bytes.size(); at += piece_bytes) {
      const auto added = Await<absl::Status>([&](SessionImport::AddReply reply) {
        arriving->Add(bytes.substr(at, piece_bytes), std::move(reply));
      });
      if (!added.ok()) {
        arriving.reset();
        loop_->Step();  // it hears of the end
        return added;
      }
    }

    auto info = Await<absl::StatusOr<SessionInfo>>(
        [&](SessionReply reply) { arriving->Finish(std::move(reply)); });
    arriving.reset();
    loop_->Step();
    return info;
  }

  // One set for all engines: every test computes with the same embedding.
  static const Weights& weights() {
    static FakeBackend* const backend = new FakeBackend(fake::TinyModel());
    static const Weights* const weights =
        Weights::Random(fake::TinyModel(), DType::kF32, 1, *backend, nullptr)->release();
    return *weights;
  }

  static const float* embedding() {
    return reinterpret_cast<const float*>(weights().embedding().data);
  }

 private:
  void MakeDraftModel(StepRunner::Parts runner, StepLimits limits) {
    DraftModel::Parts parts;
    parts.shape = {.buffer_size = 32, .block_size = options_.shape.block_size, .feedback_size = 8};
    parts.num_readers = options_.scheduler.max_batch;
    parts.num_blocks = parts.num_readers * (32 / options_.shape.block_size);
    parts.max_rows = options_.scheduler.max_batch + 5;
    parts.stopwatch = [this] { return Tick(); };
    limits.max_rows = parts.max_rows;
    limits.max_sink_rows = 0;
    limits.max_logits_rows = parts.num_readers;
    limits.max_partials =
        MaxPartials(runner.tiles, limits.max_rows, parts.num_readers, parts.shape.buffer_size);
    draft_model_ = *Model::Create(fake::TinyModel(), weights(), limits, backend_);
    runner.kv.num_layers = config_.num_layers;
    runner.local_tiles.reset();  // a model without windows drafts, whoever it drafts for
    draft_pool_ = *backend_.Allocate(
        static_cast<size_t>(parts.num_blocks * runner.kv.block_bytes()), MemoryKind::kDevice);
    runner.model = draft_model_.get();
    runner.kv_pool = draft_pool_.data();
    parts.runner = runner;
    drafter_ = std::make_unique<DraftModel>(parts);
  }

  // Steps of many lengths, the same ones in every run.
  std::chrono::steady_clock::time_point Tick() {
    stopwatch_ += std::chrono::microseconds(1 + num_readings_++ * 17 % 400);
    return stopwatch_;
  }

  static constexpr uint64_t kCallId = 1;  // one at a time

  template <typename Answer, typename Call>
  Answer Await(const Call& call) {
    std::optional<Answer> answer;
    call([&answer](Answer got) {
      RS_CHECK(!answer.has_value());
      answer = std::move(got);
    });
    if (!answer.has_value()) {
      loop_->Step();
    }
    while (!answer.has_value() && Advance()) {
    }
    if (!answer.has_value()) {
      loop_->CancelCall(kCallId);
      loop_->Step();
    }
    RS_CHECK(answer.has_value());
    return *std::move(answer);
  }

  FakeEngineOptions options_;
  ModelConfig config_;
  FakeBackend backend_;
  FakeSink sink_;
  absl::Time now_ = absl::UnixEpoch();
  std::chrono::steady_clock::time_point stopwatch_;
  int64_t num_readings_ = 0;
  int64_t last_session_ = 0;
  std::unique_ptr<Model> model_;
  Buffer pool_;
  Buffer host_pool_;
  Buffer local_pool_;
  Buffer local_host_pool_;
  Buffer disk_buffers_;
  std::unique_ptr<Model> draft_model_;
  Buffer draft_pool_;
  std::unique_ptr<DraftModel> drafter_;
  std::unique_ptr<EngineLoop> loop_;
};

// What a request must be answered, computed token by token from its text.
struct Expected {
  std::vector<ScoredToken> prompt;  // from token 1 on, if asked for
  std::vector<ScoredToken> tokens;
  std::vector<ContextNoticeEvent> notices;
  FinishReason reason = FinishReason::kMaxTokens;
  uint64_t digest = 0;
};

// `request` without a StopCondition.
inline Expected ExpectedAnswer(const GenerateRequest& request,
                               const ModelConfig& config,
                               const SessionShape& shape) {
  Expected expected;
  FakeText text(config, shape, FakeEngine::embedding());
  TokenHistory history;
  history.AddPrompt(request.prompt);
  int64_t length = 0;
  std::vector<float> logits;
  const auto push = [&](int32_t token_id) {
    const int64_t before = length == 0 ? 0 : WindowFirst(shape, length - 1);
    const int64_t after = WindowFirst(shape, length);
    if (after > before) {
      expected.notices.push_back({.evicted_tokens = after - before, .first_position = after});
    }
    logits = text.Push(token_id);
    ++length;
  };
  const int32_t num_logprobs = std::max(request.output.num_logprobs, 0);
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    if (i > 0 && request.output.prompt_logprobs) {
      SampleRow row;
      row.forced_token = request.prompt[i];
      row.num_logprobs = num_logprobs;
      expected.prompt.push_back(SampleLogits(logits.data(), config.vocab_size, row));
    }
    push(request.prompt[i]);
  }
  std::vector<int32_t> stops = request.stopping.stop_token_ids;
  if (!request.stopping.ignore_eos) {
    stops.insert(stops.end(), config.eos_token_ids.begin(), config.eos_token_ids.end());
  }
  ReplayDigest digest;
  int64_t num_taken = 0;  // by the request's constraint, which is as it was in the end
  const auto end = [&](FinishReason reason) {
    expected.reason = reason;
    if (request.constraint != nullptr) {
      request.constraint->Undo(num_taken);
    }
    return expected;
  };
  while (true) {
    const auto num_made = static_cast<int32_t>(expected.tokens.size());
    SampleRow row;
    row.position = length;
    row.params = &request.sampling;
    row.history = &history;
    row.num_logprobs = num_logprobs;
    if (num_made < request.stopping.min_tokens) {
      row.banned = stops;
    }
    if (request.constraint != nullptr) {
      row.allowed = request.constraint->Allowed();
      if (request.constraint->MayEnd()) {
        row.also_allowed = stops;
      }
    }
    const ScoredToken token = SampleLogits(logits.data(), config.vocab_size, row);
    const int32_t token_id = token.token.token_id;
    RS_CHECK(token_id != kNoToken);
    expected.tokens.push_back(token);
    digest.Add(token_id, token.token.logprob);
    history.AddOutput(token_id);
    expected.digest = digest.value();
    if (std::find(stops.begin(), stops.end(), token_id) != stops.end()) {
      return end(FinishReason::kStopToken);
    }
    if (request.constraint != nullptr) {
      RS_CHECK(request.constraint->Take(token_id));
      ++num_taken;
    }
    if (num_made + 1 == request.stopping.max_tokens) {
      return end(FinishReason::kMaxTokens);
    }
    if (!shape.slides && length == shape.buffer_size) {
      return end(FinishReason::kContextFull);
    }
    push(token_id);
  }
}

}  // namespace ringserve
