// What is done to the engine, but for its sessions.
#include "tests/engine/engine_simulation.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

namespace ringserve {

GenerateRequest Copy(const GenerateRequest& from) {
  GenerateRequest to;
  to.request_id = from.request_id;
  to.prompt = from.prompt;
  to.sampling = from.sampling;
  to.stopping.max_tokens = from.stopping.max_tokens;
  to.stopping.min_tokens = from.stopping.min_tokens;
  to.stopping.ignore_eos = from.stopping.ignore_eos;
  to.stopping.stop_token_ids = from.stopping.stop_token_ids;
  to.output = from.output;
  to.owner = from.owner;
  to.priority = from.priority;
  to.deadline = from.deadline;
  to.queue_timeout = from.queue_timeout;
  to.speculate = from.speculate;
  if (from.constraint != nullptr) {
    to.constraint = std::make_unique<FakeConstraint>();
  }
  return to;
}

void Simulation::Run() {
  num_operations_ = 40 + static_cast<int>(random_() % 80);
  for (int i = 0; i < num_operations_; ++i) {
    Operate();
    Check();
  }
  Finish();
}

void Simulation::Start() {
  if (disk_.has_value()) {
    disk_->files = *SessionFiles::Open(disk_->folder.path(), {.syncs = false});
    options_.disk.files = disk_->files.get();
    options_.disk.reads = &disk_->io;
    options_.disk.writes = &disk_->io;
    options_.io = &disk_->io;
    options_.session_prefix += "s";
  }
  engine_.emplace(options_);
}

void Simulation::Restart() {
  while (disk_->io.RunOne()) {
  }
  disk_->io.is_inline = true;
  engine_->loop().queue().Close(absl::UnavailableError("stopped"));
  for (auto& [id, live] : live_) {
    live.was_cancelled = true;
  }
  for (AskedCall& call : asked_) {
    call.was_cancelled = true;
  }
  engine_->loop().EndAll(absl::CancelledError("stopped"));
  engine_->loop().SaveSessions();
  Check();
  engine_.reset();
  disk_->io.is_inline = false;
  while (disk_->io.RunOne()) {
  }
  disk_->files.reset();
  Start();
  const std::vector<SessionInfo> infos = *engine_->List();
  REQUIRE((infos.size() == sessions_.size() || options_.disk.max_bytes < int64_t{1} << 40));
  std::map<std::string, ModelSession> found;
  for (const SessionInfo& info : infos) {
    found.emplace(info.id, std::move(sessions_.at(info.id)));
    REQUIRE(info.position == static_cast<int64_t>(found.at(info.id).text.size()));
  }
  sessions_ = std::move(found);
}

FakeEngineOptions Simulation::RandomOptions(std::mt19937_64& random, OracleDrafter& oracle) {
  const auto between = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  FakeEngineOptions options;
  const auto block_size = static_cast<int32_t>(1U << between(0, 3));
  const bool slides = random() % 2 == 0;
  options.shape = {
      .buffer_size = block_size * between(1, 5) + (random() % 3 == 0 ? between(0, 3) : 0),
      .block_size = block_size,
      .sink_size = slides ? static_cast<int32_t>(between(0, block_size)) : 0,
      .feedback_size = block_size * between(1, 6),
      .slides = slides};
  options.scheduler = {.prefill_size = static_cast<int32_t>(between(1, 24)),
                       .max_batch = static_cast<int32_t>(between(1, 6)),
                       .max_queue = static_cast<int32_t>(between(1, 6)),
                       .max_token_gap_ms = random() % 4 == 0 ? 1 : 0};
  if (random() % 3 == 0) {
    options.shape.sink_size = 0;
    // Often so small that turns outgrow the ring, in contexts that have room for it.
    options.shape.buffer_size *= 3;
    const int64_t most_window = random() % 2 == 0 ? 4 : 2 * options.shape.buffer_size;
    AddLocalRing(between(1, most_window), options.scheduler.prefill_size, options.shape);
  }
  const BlockCounts most = WorstCaseBlocks(options.shape, INT64_MAX);
  const int64_t per_session = most.global;
  options.device_blocks =
      static_cast<int32_t>(per_session * between(1, 4) + between(0, per_session));
  if (random() % 2 == 0) {
    options.host_blocks = static_cast<int32_t>(between(2, 6 * per_session));
  }
  if (options.shape.has_local()) {
    const int64_t per_turn = 2 * most.local;
    options.local_blocks.num_device =
        static_cast<int32_t>(per_turn * between(1, 4) + between(0, per_turn));
    if (options.host_blocks > 0) {
      options.local_blocks.num_host = static_cast<int32_t>(between(2, 6 * per_turn));
    }
  }
  options.sessions = {.max_sessions = 5,
                      .idle_timeout_s = 0,
                      .share_prefixes = random() % 2 == 0 && !options.shape.has_local(),
                      .prefix_groups = {}};
  options.max_logits_rows = static_cast<int32_t>(between(1, 8));
  options.runs_ahead = random() % 2 == 0;
  const uint64_t drafter = random() % 4;
  options.drafter = drafter < 2 ? &oracle : nullptr;
  options.has_draft_model = drafter == 2;
  options.max_draft = static_cast<int32_t>(between(1, 9));
  options.disk.max_bytes = random() % 3 == 0 ? between(0, 40'000) : int64_t{1} << 40;
  return options;
}

void Simulation::Operate() {
  const uint64_t kind = random_() % 30;
  if (disk_.has_value() && OneIn(2)) {
    for (uint64_t count = random_() % 4; count > 0 && disk_->io.RunOne(); --count) {
    }
  }
  if (kind >= 28) {
    if (!sessions_.empty()) {
      auto at = sessions_.begin();
      std::advance(at, static_cast<std::ptrdiff_t>(random_() % sessions_.size()));
      Ask(at->first);
    }
  } else if (kind == 27) {
    if (disk_.has_value() && OneIn(6) && !may_fault_) {
      Restart();
    }
  } else if (kind == 26) {
    TakeAbroad();
  } else if (kind >= 20) {
    OperateOnSessions(kind);
  } else if (kind < 5) {
    Submit();
  } else if (kind < 14) {
    for (uint64_t steps = 1 + random_() % 6; steps > 0; --steps) {
      engine_->loop().Step();
      Check();
    }
  } else if (kind < 16) {
    if (!asked_.empty() && OneIn(4)) {
      asked_.front().was_cancelled = true;
      engine_->loop().CancelCall(asked_.front().options.call_id);
    } else if (Live* live = Pick(); live != nullptr) {
      live->was_cancelled = true;
      engine_->loop().queue().Command({.request_id = live->request.request_id});
    }
  } else if (kind < 18) {
    if (Live* live = Pick(); live != nullptr) {
      live->was_paused = !live->was_paused;
      engine_->loop().queue().Command({.request_id = live->request.request_id,
                                       .kind = live->was_paused ? RequestCommand::Kind::kPause
                                                                : RequestCommand::Kind::kResume});
    }
  } else if (kind == 18) {
    engine_->Sleep(absl::Seconds(random_() % 3));
  } else if (OneIn(12)) {
    engine_->backend().FailAfter(static_cast<int64_t>(random_() % 80));
    may_fault_ = true;
  } else if (OneIn(4)) {
    engine_->backend().PoisonLogitsRow(static_cast<int32_t>(random_() % 3));
    may_poison_ = true;
  }
}

void Simulation::Submit() {
  GenerateRequest request = RandomRequest();
  const auto max_prompt = engine_->options().shape.slides ? std::numeric_limits<int64_t>::max()
                                                          : engine_->options().shape.buffer_size;
  REQUIRE(CheckGenerateRequest(request,
                               {.vocab_size = engine_->config().vocab_size,
                                .max_prompt_tokens = max_prompt,
                                .max_context_tokens = max_prompt})
              .ok());
  std::vector<Live> lives(1);
  lives[0].request = Copy(request);
  lives[0].shape = engine_->options().shape;
  while (OneIn(4)) {
    Sibling sibling;
    sibling.request_id = ++last_id_;
    sibling.seed = random_();
    if (request.constraint != nullptr) {
      sibling.constraint = std::make_unique<FakeConstraint>();
    }
    Live live;
    live.request = Copy(request);
    live.shape = engine_->options().shape;
    live.is_sibling = true;
    live.request.request_id = sibling.request_id;
    live.request.sampling.seed = sibling.seed;
    live.request.output.prompt_logprobs = false;
    lives.push_back(std::move(live));
    request.siblings.push_back(std::move(sibling));
  }
  const absl::Status status = engine_->loop().Submit(std::move(request));
  for (Live& live : lives) {
    const uint64_t id = live.request.request_id;
    if (status.ok()) {
      live_.emplace(id, std::move(live));
    }
  }
  if (!status.ok()) {
    const EngineConfig::Scheduler& limits = engine_->options().scheduler;
    const bool never_fits =
        static_cast<int64_t>(lives.size()) > int64_t{limits.max_queue} + limits.max_batch;
    REQUIRE((absl::IsResourceExhausted(status) || (may_fault_ && absl::IsUnavailable(status)) ||
             (never_fits && absl::IsInvalidArgument(status))));
  }
}

GenerateRequest Simulation::RandomRequest() {
  const SessionShape& shape = engine_->options().shape;
  GenerateRequest request;
  request.request_id = ++last_id_;
  const auto max_prompt = static_cast<uint64_t>(shape.buffer_size * (shape.slides ? 3 : 1));
  request.prompt.resize(1 + random_() % max_prompt);
  // Beginnings that meet.
  const auto letters = static_cast<int32_t>(OneIn(2) ? 1 : engine_->config().vocab_size);
  for (int32_t& token_id : request.prompt) {
    token_id = RandomToken() % letters;
  }
  request.owner = OneIn(2) ? "ann" : "bob";
  request.sampling.temperature = OneIn(3) ? 0.0F : 1.0F;
  request.sampling.seed = random_();
  if (OneIn(3)) {
    request.sampling.repetition_penalty = 1.3F;
    request.sampling.frequency_penalty = 0.2F;
    request.sampling.top_p = 0.8F;
  }
  request.stopping.max_tokens = 1 + static_cast<int32_t>(random_() % 40);
  request.stopping.ignore_eos = OneIn(2);
  if (OneIn(3)) {
    request.stopping.stop_token_ids = {RandomToken(), RandomToken()};
    request.stopping.min_tokens =
        static_cast<int32_t>(random_() % (request.stopping.max_tokens + 1));
  }
  request.output.prompt_logprobs = OneIn(4);
  request.output.num_logprobs = static_cast<int32_t>(random_() % 4) - 1;
  request.priority = static_cast<int32_t>(random_() % 3) - 1;
  if (OneIn(4)) {
    request.deadline = engine_->now() + absl::Seconds(1 + random_() % 10);
  }
  if (OneIn(4)) {
    request.queue_timeout = absl::Seconds(1 + random_() % 4);
  }
  request.speculate = !OneIn(4);
  if (OneIn(4)) {
    request.constraint = std::make_unique<FakeConstraint>();  // it says itself when a text ends
    request.stopping.ignore_eos = false;
    request.stopping.min_tokens = 0;
  }
  return request;
}

Live* Simulation::Pick() {
  if (live_.empty()) {
    return nullptr;
  }
  auto at = live_.begin();
  std::advance(at, static_cast<std::ptrdiff_t>(random_() % live_.size()));
  return &at->second;
}

void Simulation::Finish() {
  int64_t num_tokens = 0;
  for (auto& [id, live] : live_) {
    engine_->loop().queue().Command({.request_id = id, .kind = RequestCommand::Kind::kResume});
    num_tokens += static_cast<int64_t>(live.request.prompt.size());
    num_tokens += live.request.stopping.max_tokens;
  }
  // Steps may wait for the disk.
  const int64_t most_steps = 2 * num_tokens + (disk_.has_value() ? 20000 : 0);
  for (int64_t steps = 0; engine_->Advance(); ++steps) {
    REQUIRE(steps <= most_steps);
    Check();
  }
  Check();
  REQUIRE(live_.empty());
  REQUIRE(asked_.empty());
  for (const auto& [id, session] : sessions_) {
    REQUIRE(!session.request_id.has_value());
    const absl::StatusOr<SessionInfo> closed = engine_->Close(id);
    REQUIRE((closed.ok() || may_fault_));
    if (closed.ok()) {
      REQUIRE(closed->position == static_cast<int64_t>(session.text.size()));
      REQUIRE(closed->counters.reprefilled_tokens == 0);
    }
  }
  if (!may_fault_) {
    REQUIRE(engine_->loop().pool().num_references() == 0);
    REQUIRE(engine_->loop().pool().num_references(BlockGroup::kLocal) == 0);
  }
  if (engine_->draft_model() != nullptr) {
    REQUIRE(engine_->draft_model()->pool().num_references() == 0);
  }
  engine_->loop().queue().AwaitIdle();
}

}  // namespace ringserve
