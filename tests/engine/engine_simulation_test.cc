// Random operations on an engine, one thread, a clock that stands still, a disk that works when it
// is told to: every request ends exactly once and is answered with what its own text demands, a
// session's text is what its turns, forks and rollbacks made it, wherever its blocks lie and
// whoever shares them, in a file, exported, imported or after a restart; blocks never leak. A
// failure prints its seed; RINGSERVE_SIMULATION_SEED replays one, and RINGSERVE_SIMULATION_SEEDS
// sets how many are run (13000 are a million operations).
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine_loop.h"
#include "tests/support/catch.h"
#include "tests/support/fake_engine.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

// A request that was submitted, and what has happened to it since.
struct Live {
  GenerateRequest request;  // without a StopCondition; of a turn, the prompt is the whole text
  SessionShape shape;
  bool is_sibling = false;  // hears once of all windows that moved while its leader read the prompt
  std::string session;      // of a turn
  size_t num_before = 0;    // of a turn: tokens of the text that are not its prompt
  OnInterrupt on_interrupt = OnInterrupt::kRollback;
  int64_t num_delivered = 0;
  std::optional<absl::StatusCode> refusal = std::nullopt;  // what the turn must be answered
  bool was_accepted = false;
  bool was_cancelled = false;
  bool was_paused = false;
  std::optional<Expected> expected = std::nullopt;  // once it was computed

  const Expected& Expect(const ModelConfig& config) {
    if (!expected.has_value()) {
      expected = ExpectedAnswer(request, config, shape);
    }
    return *expected;
  }
};

// What a session is, as text.
struct ModelSession {
  std::vector<int32_t> text;
  SessionShape shape;
  std::optional<uint64_t> request_id = std::nullopt;  // of its live turn
};

// Mostly right, for it knows the answers.
class OracleDrafter final : public Drafter {
 public:
  OracleDrafter(std::map<uint64_t, Live>& live, uint64_t seed) : live_(live), random_(seed) {}

  absl::Status Draft(std::span<const DraftJob> jobs) override {
    for (const DraftJob& job : jobs) {
      Live& live = live_.at(job.request_id);
      const std::vector<ScoredToken>& tokens = live.Expect(fake::TinyModel()).tokens;
      RS_CHECK(job.max_draft >= 1);
      job.draft->clear();
      size_t at = static_cast<size_t>(job.position) - live.request.prompt.size();
      RS_CHECK(at + static_cast<size_t>(job.max_draft) <=
               static_cast<size_t>(live.request.stopping.max_tokens));
      for (auto left = static_cast<int32_t>(random_() % 2 == 0 ? job.max_draft
                                                               : random_() % (job.max_draft + 1));
           left > 0;
           --left, ++at) {
        const bool is_right = at < tokens.size() && random_() % 8 != 0;
        job.draft->push_back(is_right ? tokens[at].token.token_id
                                      : static_cast<int32_t>(random_() % 32));
      }
    }
    return absl::OkStatus();
  }

 private:
  std::map<uint64_t, Live>& live_;
  std::mt19937_64 random_;
};

// Copies what ExpectedAnswer needs; a request owns its StopCondition and cannot be copied whole.
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
  return to;
}

class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : random_(seed), oracle_(live_, seed), options_(RandomOptions(random_, oracle_)) {
    if (seed % 4 == 0) {
      disk_.emplace();
    }
    Start();
  }

  void Run() {
    num_operations_ = 40 + static_cast<int>(random_() % 80);
    for (int i = 0; i < num_operations_; ++i) {
      Operate();
      Check();
    }
    Finish();
  }

  int64_t num_operations() const { return num_operations_; }

  EngineLoad load() const { return engine_->loop().load(); }

 private:
  // A folder on a disk that may be small.
  struct Disk {
    TempDir folder;
    std::unique_ptr<SessionFiles> files;
    ManualIo io;
  };

  void Start() {
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

  // What is idle is saved; all else ends.
  void Restart() {
    while (disk_->io.RunOne()) {
    }
    disk_->io.is_inline = true;
    engine_->loop().queue().Close(absl::UnavailableError("stopped"));
    for (auto& [id, live] : live_) {
      live.was_cancelled = true;
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

  static FakeEngineOptions RandomOptions(std::mt19937_64& random, OracleDrafter& oracle) {
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
    const int64_t per_session = WorstCaseBlocks(options.shape, INT64_MAX);
    options.device_blocks =
        static_cast<int32_t>(per_session * between(1, 4) + between(0, per_session));
    if (random() % 2 == 0) {
      options.host_blocks = static_cast<int32_t>(between(2, 6 * per_session));
    }
    options.sessions = {.max_sessions = 5,
                        .idle_timeout_s = 0,
                        .share_prefixes = random() % 2 == 0,
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

  bool OneIn(uint64_t n) { return random_() % n == 0; }

  int32_t RandomToken() {
    return static_cast<int32_t>(random_() % static_cast<uint64_t>(engine_->config().vocab_size));
  }

  GenerateRequest RandomRequest() {
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
    return request;
  }

  void Operate() {
    const uint64_t kind = random_() % 28;
    if (disk_.has_value() && OneIn(2)) {
      for (uint64_t count = random_() % 4; count > 0 && disk_->io.RunOne(); --count) {
      }
    }
    if (kind == 27) {
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
      if (Live* live = Pick(); live != nullptr) {
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

  void Submit() {
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

  void OperateOnSessions(uint64_t kind) {
    if (sessions_.empty() || OneIn(8)) {
      CreateSession();
      return;
    }
    auto at = sessions_.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_() % sessions_.size()));
    if (kind < 24) {
      SubmitTurn(at->first, at->second);
    } else if (kind == 24) {
      OneIn(2) ? RollbackSession(at->first) : ForkSession(at->first);
    } else if (OneIn(3)) {
      if (at->second.request_id.has_value()) {
        live_.at(*at->second.request_id).was_cancelled = true;
      }
      const absl::StatusOr<SessionInfo> closed = engine_->Close(at->first);
      if (closed.ok()) {
        Check();  // of the turn that it ended
        sessions_.erase(at);
      } else {
        REQUIRE(may_fault_);
      }
    }
  }

  // Exports a session and imports what came out, here: the copy has the same text.
  void TakeAbroad() {
    if (sessions_.empty()) {
      return;
    }
    auto at = sessions_.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_() % sessions_.size()));
    const bool was_busy = at->second.request_id.has_value();
    const absl::StatusOr<std::string> bytes = engine_->Export(at->first);
    Check();
    if (!bytes.ok()) {
      REQUIRE((was_busy || may_fault_ || absl::IsResourceExhausted(bytes.status())));
      return;
    }
    const absl::StatusOr<SessionInfo> copy = engine_->Import(*bytes, 1 + random_() % 4000);
    Check();
    if (!copy.ok()) {
      REQUIRE((may_fault_ || absl::IsResourceExhausted(copy.status())));
      return;
    }
    ModelSession session = at->second;
    session.request_id.reset();
    REQUIRE(copy->position == static_cast<int64_t>(session.text.size()));
    sessions_.emplace(copy->id, std::move(session));
  }

  void CreateSession() {
    const SessionShape& shape = engine_->options().shape;
    SessionOptions options;
    ModelSession session;
    session.shape = shape;
    const int64_t num_blocks = shape.buffer_size / shape.block_size;
    if (num_blocks > 2 && OneIn(2)) {
      options.buffer_size =
          shape.block_size *
          (2 + static_cast<int64_t>(random_() % static_cast<uint64_t>(num_blocks - 1)));
      session.shape.buffer_size = options.buffer_size;
      session.shape.feedback_size = std::min(shape.feedback_size, options.buffer_size);
    }
    const absl::StatusOr<SessionInfo> made = engine_->Create(options);
    if (made.ok()) {
      sessions_.emplace(made->id, std::move(session));
    } else {
      REQUIRE((may_fault_ || (absl::IsResourceExhausted(made.status()) && sessions_.size() == 5)));
    }
  }

  void SubmitTurn(const std::string& id, ModelSession& session) {
    GenerateRequest request = RandomRequest();
    request.owner.clear();
    request.sampling.repetition_penalty = 1;  // its history ends where the window does
    request.sampling.frequency_penalty = 0;
    request.output.prompt_logprobs = false;
    request.prompt.resize(1 + request.prompt.size() / 3);
    request.turn.emplace();
    request.turn->session_id = id;
    request.turn->on_interrupt = static_cast<OnInterrupt>(random_() % 3);
    Live live;
    live.request = Copy(request);
    live.shape = session.shape;
    live.session = id;
    live.on_interrupt = request.turn->on_interrupt;
    live.num_before = session.text.size();
    live.num_delivered = static_cast<int64_t>(random_() % 12);
    live.request.prompt = session.text;
    live.request.prompt.insert(
        live.request.prompt.end(), request.prompt.begin(), request.prompt.end());
    if (session.request_id.has_value()) {
      live.refusal = absl::StatusCode::kAborted;
    } else if (OneIn(10)) {
      request.turn->expected_position = static_cast<int64_t>(session.text.size()) + 1;
      live.refusal = absl::StatusCode::kAborted;
    } else if (!session.shape.slides &&
               live.request.prompt.size() > static_cast<size_t>(session.shape.buffer_size)) {
      live.refusal = absl::StatusCode::kInvalidArgument;
    }
    const uint64_t request_id = request.request_id;
    engine_->sink().SetDelivered(request_id, live.num_delivered);
    const absl::Status status = engine_->loop().Submit(std::move(request));
    if (!status.ok()) {
      REQUIRE((absl::IsResourceExhausted(status) || (may_fault_ && absl::IsUnavailable(status))));
      return;
    }
    if (!live.refusal.has_value()) {
      session.request_id = request_id;
    }
    live_.emplace(request_id, std::move(live));
  }

  void RollbackSession(const std::string& id) {
    const auto wanted = static_cast<int64_t>(random_() % (sessions_.at(id).text.size() + 2));
    const bool was_busy = sessions_.at(id).request_id.has_value();
    const absl::StatusOr<SessionInfo> done = engine_->Rollback(id, wanted);
    Check();
    ModelSession& session = sessions_.at(id);
    if (done.ok()) {
      session.text.resize(static_cast<size_t>(wanted));
      REQUIRE(done->position == wanted);
    } else {
      REQUIRE((was_busy || may_fault_ || absl::IsResourceExhausted(done.status()) ||
               wanted > static_cast<int64_t>(session.text.size()) || session.shape.slides));
    }
  }

  void ForkSession(const std::string& id) {
    const bool was_busy = sessions_.at(id).request_id.has_value();
    const absl::StatusOr<SessionInfo> fork = engine_->Fork(id);
    Check();
    if (fork.ok()) {
      ModelSession copy = sessions_.at(id);
      copy.request_id.reset();
      REQUIRE(fork->position == static_cast<int64_t>(copy.text.size()));
      sessions_.emplace(fork->id, std::move(copy));
    } else {
      REQUIRE((was_busy || may_fault_ || absl::IsResourceExhausted(fork.status())));
    }
  }

  Live* Pick() {
    if (live_.empty()) {
      return nullptr;
    }
    auto at = live_.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_() % live_.size()));
    return &at->second;
  }

  // Of those who got their place since the last look none is less urgent than one who still waits,
  // but for one whose session may have to be read from the disk first.
  void CheckPriorities() {
    int32_t least_accepted = std::numeric_limits<int32_t>::max();
    int32_t most_waiting = std::numeric_limits<int32_t>::min();
    for (auto& [id, live] : live_) {
      if (live.was_accepted) {
        continue;
      }
      live.was_accepted = engine_->sink().is_accepted(id);
      const int32_t priority = live.request.priority;
      if (live.was_accepted) {
        least_accepted = std::min(least_accepted, priority);
      } else if (!engine_->sink().has_ended(id) && (live.session.empty() || !disk_.has_value())) {
        most_waiting = std::max(most_waiting, priority);
      }
    }
    REQUIRE(least_accepted >= most_waiting);
  }

  void Check() {
    REQUIRE(engine_->loop().PoolBalances());
    CheckPriorities();
    for (const uint64_t id : engine_->sink().TakeEnded()) {
      const auto found = live_.find(id);
      REQUIRE(found != live_.end());
      CheckEnd(found->second, engine_->sink().Take(id));
      live_.erase(found);
    }
    const EngineLoad load = engine_->loop().load();
    REQUIRE(load.queued <=
            engine_->options().scheduler.max_queue + engine_->options().scheduler.max_batch);
  }

  // Nobody is paused any more: all must end, and soon, for nobody's work is put off for nothing:
  // each step reads or makes a token at least, or lands one that did.
  void Finish() {
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
    }
    if (engine_->draft_model() != nullptr) {
      REQUIRE(engine_->draft_model()->pool().num_references() == 0);
    }
    engine_->loop().queue().AwaitIdle();
  }

  void CheckEnd(Live& live, const Transcript& got) {
    const GenerateRequest& request = live.request;
    CAPTURE(request.request_id, live.session);
    if (live.refusal.has_value()) {
      REQUIRE(got.failed.has_value());
      REQUIRE((got.failed->status.code() == *live.refusal || may_fault_));
      REQUIRE(!got.accepted.has_value());
      return;
    }
    const Expected& expected = live.Expect(engine_->config());
    if (!live.session.empty()) {
      CheckTurn(live, got);
    }
    REQUIRE(got.tokens.size() <= expected.tokens.size());
    REQUIRE(got.prompt.size() <= expected.prompt.size());
    // A turn tells only of the windows that move while it runs.
    REQUIRE(got.notices.size() <= expected.notices.size());
    for (size_t i = 0; i < got.tokens.size(); ++i) {
      CheckToken(got.tokens[i], expected.tokens[i]);
    }
    for (size_t i = 0; i < got.prompt.size(); ++i) {
      CheckToken(got.prompt[i], expected.prompt[i]);
    }
    const bool tells_all = live.session.empty() && !live.is_sibling;
    for (size_t i = 0; tells_all && i < got.notices.size(); ++i) {
      REQUIRE(got.notices[i].first_position == expected.notices[i].first_position);
      REQUIRE(got.notices[i].evicted_tokens == expected.notices[i].evicted_tokens);
    }
    if (got.finished.has_value()) {
      REQUIRE(got.tokens.size() == expected.tokens.size());
      REQUIRE(got.prompt.size() == expected.prompt.size());
      REQUIRE((!tells_all || got.notices.size() == expected.notices.size()));
      REQUIRE(got.finished->reason == expected.reason);
      REQUIRE(got.finished->replay_digest == expected.digest);
      REQUIRE(got.finished->usage.accepted_tokens <= got.finished->usage.drafted_tokens);
      REQUIRE((request.speculate || got.finished->usage.drafted_tokens == 0));
      return;
    }
    const absl::Status& status = got.failed->status;
    CAPTURE(status.ToString());
    const bool is_late =
        engine_->now() >= request.deadline ||
        (!got.accepted.has_value() && request.queue_timeout < absl::InfiniteDuration());
    REQUIRE(((absl::IsCancelled(status) && live.was_cancelled) ||
             (absl::IsDeadlineExceeded(status) && is_late) ||
             (absl::IsInternal(status) && (may_fault_ || may_poison_)) ||
             // Idle sessions hold what it needs.
             (absl::IsResourceExhausted(status) && !got.accepted.has_value()) ||
             (absl::IsUnavailable(status) && may_fault_)));
  }

  // What the turn made of its session's text.
  void CheckTurn(const Live& live, const Transcript& got) {
    ModelSession& session = sessions_.at(live.session);
    REQUIRE(session.request_id == live.request.request_id);
    session.request_id.reset();
    std::vector<int32_t> text = live.request.prompt;
    for (const int32_t token_id : got.token_ids()) {
      text.push_back(token_id);
    }
    const auto length = static_cast<int64_t>(text.size());
    if (got.finished.has_value()) {
      REQUIRE(got.finished->usage.reprefilled_tokens == 0);
      REQUIRE(got.finished->session_position == length);
      session.text = std::move(text);
      return;
    }
    const int64_t kept = got.failed->session_position;
    CAPTURE(got.failed->status.ToString(), live.on_interrupt, live.num_delivered);
    CAPTURE(live.num_before, live.request.prompt.size(), got.tokens.size(), may_fault_);
    CAPTURE(session.shape.slides, session.shape.buffer_size, session.shape.block_size);
    const auto before = static_cast<int64_t>(live.num_before);
    const auto num_tokens = static_cast<int64_t>(got.tokens.size());
    CAPTURE(before, num_tokens, got.failed->status.ToString(), session.shape.slides);
    CAPTURE(got.accepted.has_value(), static_cast<int>(live.on_interrupt), live.num_delivered);
    REQUIRE(kept >= before);
    REQUIRE(kept <= length);
    if (!session.shape.slides && !may_fault_) {
      const int64_t num_delivered = std::min(live.num_delivered, num_tokens);
      switch (live.on_interrupt) {
        case OnInterrupt::kRollback:
          REQUIRE(kept == before);
          break;
        case OnInterrupt::kKeepDelivered:
          REQUIRE(kept == (num_delivered > 0 ? length - num_tokens + num_delivered : before));
          break;
        case OnInterrupt::kKeepAll:
          REQUIRE((num_tokens == 0 || kept == length));
          break;
      }
    }
    text.resize(static_cast<size_t>(kept));
    session.text = std::move(text);
  }

  static void CheckToken(const ScoredToken& got, const ScoredToken& expected) {
    REQUIRE(got.token.token_id == expected.token.token_id);
    REQUIRE(got.token.logprob == expected.token.logprob);
    REQUIRE(got.alternatives.size() == expected.alternatives.size());
  }

  std::mt19937_64 random_;
  std::map<uint64_t, Live> live_;
  OracleDrafter oracle_;
  std::optional<Disk> disk_;
  FakeEngineOptions options_;
  std::optional<FakeEngine> engine_;
  std::map<std::string, ModelSession> sessions_;
  int num_operations_ = 0;
  uint64_t last_id_ = 0;
  bool may_fault_ = false;
  bool may_poison_ = false;
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(NDEBUG)
constexpr uint64_t kDefaultSeeds = 500;  // these builds are many times slower
#else
constexpr uint64_t kDefaultSeeds = 10000;
#endif

std::optional<uint64_t> Variable(const char* name) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): before any thread
  return text == nullptr ? std::nullopt : std::optional<uint64_t>(std::stoull(text));
}

TEST_CASE("random operations leave every answer as its text demands") {
  const std::optional<uint64_t> one = Variable("RINGSERVE_SIMULATION_SEED");
  const uint64_t first = one.value_or(0);
  const uint64_t count =
      one.has_value() ? 1 : Variable("RINGSERVE_SIMULATION_SEEDS").value_or(kDefaultSeeds);
  int64_t num_operations = 0;
  int64_t num_drafted = 0;
  int64_t num_accepted = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    CAPTURE(seed);
    Simulation simulation(seed);
    simulation.Run();
    num_operations += simulation.num_operations();
    num_drafted += simulation.load().drafted_tokens;
    num_accepted += simulation.load().accepted_tokens;
  }
  WARN(num_operations << " operations; " << num_drafted << " tokens drafted, " << num_accepted
                      << " held");
  if (!one.has_value()) {
    CHECK(num_accepted > 0);
    CHECK(num_drafted > num_accepted);
  }
}

}  // namespace
}  // namespace ringserve
