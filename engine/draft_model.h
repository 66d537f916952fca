// A second, smaller model that guesses what the first one will say. It reads the same tokens into
// rings of its own and samples with the request's own noise, so that it says the same wherever the
// two models agree. What it has read and the first model has not said is undone by moving its
// feedback ring's write pointer.
//
// It keeps the end of a text: a reader whose ring is full begins again with the last half of what
// it knows, so that its cost does not grow with the text.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/cache/block_pool.h"
#include "engine/drafter.h"
#include "engine/session.h"
#include "engine/step_batch.h"
#include "engine/step_runner.h"

namespace ringserve {

// One thread. Borrows what it is given.
class DraftModel final : public Drafter {
 public:
  struct Parts {
    StepRunner::Parts runner;
    SessionShape shape;  // of a reader; it does not slide
    int32_t num_readers = 0;
    int32_t num_blocks = 0;  // of the pool: num_readers times the most that one holds
    int32_t max_rows = 0;    // of a step; >= num_readers
    std::function<std::chrono::steady_clock::time_point()> stopwatch =
        std::chrono::steady_clock::now;
  };

  explicit DraftModel(const Parts& parts);

  absl::Status Draft(std::span<const DraftJob> jobs) override;

  void Forget(uint64_t request_id) override { readers_.erase(request_id); }

  double token_ms() const override { return token_ms_; }

  const BlockPool& pool() const { return pool_; }

 private:
  // What the model has read of one request's text.
  struct Reader {
    std::unique_ptr<Session> session;
    int64_t start = 0;  // where in the text the session begins
    int64_t known = 0;  // tokens before this position are the text's
    int64_t last_use = 0;

    int64_t end() const { return start + session->position(); }
  };

  // A job, and what is still to be read for it.
  struct Work {
    const DraftJob* job = nullptr;
    Reader* reader = nullptr;
    std::vector<int32_t> unread;  // ends with the token whose successor is wanted
  };

  Reader& ReaderOf(const DraftJob& job);
  // Makes the reader hold a part of the job's text, and returns what of it is unread.
  void Synchronize(const DraftJob& job, Work& work);
  // Reads what is unread, as far as one step goes; the next token of those who have read all.
  absl::Status Step();
  void Add(Work& work, size_t num_rows);

  const Parts parts_;
  BlockPool pool_;
  StepRunner runner_;
  std::unordered_map<uint64_t, Reader> readers_;
  std::vector<Work> works_;
  std::vector<Work*> sampled_;  // of the step at hand, by result
  StepBatch batch_;
  int64_t num_calls_ = 0;
  double token_ms_ = 0;  // 0: not known
};

}  // namespace ringserve
