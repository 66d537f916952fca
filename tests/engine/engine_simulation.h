// Random operations on an engine beside a model of what each must come to; see
// engine_simulation_test.cc.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine_loop.h"
#include "tests/support/catch.h"
#include "tests/support/fake_constraint.h"
#include "tests/support/fake_engine.h"
#include "tests/support/temp_dir.h"

namespace ringserve {

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

// Copies what ExpectedAnswer needs; a request owns its StopCondition and cannot be copied whole.
GenerateRequest Copy(const GenerateRequest& from);

// What a session is, as text.
struct ModelSession {
  std::vector<int32_t> text;
  SessionShape shape;
  std::optional<uint64_t> request_id = std::nullopt;  // of its live turn
};

// A fork, or a rollback to `position`, that was asked for and may have to wait.
struct AskedCall {
  bool is_fork = false;
  std::string session;
  int64_t position = 0;
  CallOptions options;
  uint64_t last_before = 0;  // id of the last request that came before it
  bool may_be_busy = false;  // the session has had a turn since
  bool was_closed = false;   // the session
  bool was_cancelled = false;
};

// Mostly right, for it knows the answers.
class OracleDrafter final : public Drafter {
 public:
  OracleDrafter(std::map<uint64_t, Live>& live, uint64_t seed) : live_(live), random_(seed) {}

  absl::Status Draft(std::span<const DraftJob> jobs) override {
    for (const DraftJob& job : jobs) {
      Live& live = live_.at(job.request_id);
      const std::vector<ScoredToken>& tokens =
          live.Expect(fake::TinyModel(live.shape.local_window)).tokens;
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

// A failed check ends the test case.
class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : random_(seed), oracle_(live_, seed), options_(RandomOptions(random_, oracle_)) {
    if (seed % 4 == 0) {
      disk_.emplace();
    }
    Start();
  }

  void Run();

  int64_t num_operations() const { return num_operations_; }

  // Calls that were not answered by the next step.
  int64_t num_waited() const { return num_waited_; }

  EngineLoad load() const { return engine_->loop().load(); }

 private:
  // A folder on a disk that may be small.
  struct Disk {
    TempDir folder;
    std::unique_ptr<SessionFiles> files;
    ManualIo io;
  };

  void Start();

  // What is idle is saved; all else ends.
  void Restart();

  static FakeEngineOptions RandomOptions(std::mt19937_64& random, OracleDrafter& oracle);

  bool OneIn(uint64_t n) { return random_() % n == 0; }

  int32_t RandomToken() {
    return static_cast<int32_t>(random_() % static_cast<uint64_t>(engine_->config().vocab_size));
  }

  GenerateRequest RandomRequest();

  void Operate();

  void Submit();

  void OperateOnSessions(uint64_t kind);

  // Exports a session and imports what came out, here: the copy has the same text.
  void TakeAbroad();

  void CreateSession();

  void SubmitTurn(const std::string& id, ModelSession& session);

  // A fork or a rollback.
  void Ask(const std::string& id);

  // What came of those that were answered, in the order of the answers.
  void TakeAnswers();

  void TakeAnswer(const AskedCall& call, const absl::StatusOr<SessionInfo>& answer);

  // No request was admitted before a call that has waited for longer.
  void CheckCallsInTurn();

  Live* Pick();

  // Of those who got their place since the last look none is less urgent than one who still waits,
  // but for one whose session may have to be read from the disk first.
  void CheckPriorities();

  void Check();

  // Nobody is paused any more: all must end, and soon, for nobody's work is put off for nothing:
  // each step reads or makes a token at least, or lands one that did.
  void Finish();

  void CheckEnd(Live& live, const Transcript& got);

  // What the turn made of its session's text.
  void CheckTurn(const Live& live, const Transcript& got);

  static void CheckToken(const ScoredToken& got, const ScoredToken& expected);

  std::mt19937_64 random_;
  std::map<uint64_t, Live> live_;
  OracleDrafter oracle_;
  std::optional<Disk> disk_;
  FakeEngineOptions options_;
  std::optional<FakeEngine> engine_;
  std::map<std::string, ModelSession> sessions_;
  std::list<AskedCall> asked_;
  std::vector<std::pair<const AskedCall*, absl::StatusOr<SessionInfo>>> answers_;
  int64_t num_waited_ = 0;
  uint64_t last_call_id_ = 1000;
  int num_operations_ = 0;
  uint64_t last_id_ = 0;
  bool may_fault_ = false;
  bool may_poison_ = false;
};

}  // namespace ringserve
