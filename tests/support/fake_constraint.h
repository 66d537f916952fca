// A constraint that forbids about a third of a small vocabulary, another third after each token.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"

namespace ringserve {

// Of at most 64 tokens, of which some are always allowed.
class FakeConstraint final : public TokenConstraint {
 public:
  FakeConstraint() {
    for (size_t state = 0; state < kNumStates; ++state) {
      for (size_t token_id = 0; token_id < 64; ++token_id) {
        masks_[state] |= uint64_t{(token_id * 5 + state) % 3 != 0 ? 1U : 0U} << token_id;
      }
    }
  }

  std::span<const uint64_t> Allowed() override { return {&masks_[states_.back()], 1}; }

  bool MayEnd() override { return states_.back() % 2 == 0; }

  bool Take(int32_t token_id) override {
    if ((masks_[states_.back()] >> token_id & 1) == 0) {
      return false;
    }
    states_.push_back((3 * states_.back() + static_cast<size_t>(token_id) + 1) % kNumStates);
    return true;
  }

  void Undo(int64_t num_tokens) override {
    states_.resize(states_.size() - static_cast<size_t>(num_tokens));
  }

 private:
  static constexpr size_t kNumStates = 7;

  std::array<uint64_t, kNumStates> masks_ = {};
  std::vector<size_t> states_ = {0};  // after each token
};

}  // namespace ringserve
