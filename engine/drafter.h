// Who guesses what comes next in a text. A wrong guess costs a row and changes no answer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/status.h"
#include "engine/plan/speculation.h"
#include "engine/request.h"

namespace ringserve {

struct DraftJob {
  uint64_t request_id = 0;
  std::span<const int32_t> text;  // its end
  int64_t position = 0;           // where the first drafted token would stand in the whole text
  const SamplingParams* sampling = nullptr;
  int32_t max_draft = 0;                  // >= 1
  std::vector<int32_t>* draft = nullptr;  // to be replaced by at most max_draft tokens
};

// One thread. After an error the device is lost.
class Drafter {
 public:
  virtual ~Drafter() = default;
  // Once per step, with all jobs of it.
  virtual absl::Status Draft(std::span<const DraftJob> jobs) = 0;

  // What a drafted token costs one sequence, in milliseconds; 0: nothing, or not known.
  virtual double token_ms() const { return 0; }

  // Nobody will ask for that request any more.
  virtual void Forget(uint64_t /*request_id*/) {}
};

// Drafts what followed when the text last read like this.
class LookupDrafter final : public Drafter {
 public:
  explicit LookupDrafter(int32_t min_match) : min_match_(min_match) {}

  absl::Status Draft(std::span<const DraftJob> jobs) override {
    for (const DraftJob& job : jobs) {
      LookUpDraft(job.text, min_match_, job.max_draft, *job.draft);
    }
    return absl::OkStatus();
  }

 private:
  const int32_t min_match_;
};

}  // namespace ringserve
