// Deterministic automata over bytes: the regular pieces of a constraint (a string, a number, a
// literal). State 0 is the start; every state can be reached and can reach acceptance, so that a
// text that has not left the automaton can always be completed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include "engine/base/status.h"
#include "engine/constraint/budget.h"

namespace ringserve {

class Dfa {
 public:
  static constexpr int32_t kDead = -1;

  // The empty language has no states.
  int32_t num_states() const { return static_cast<int32_t>(accepting_.size()); }

  bool empty() const { return accepting_.empty(); }

  int32_t Next(int32_t state, uint8_t byte) const {
    return next_[static_cast<size_t>(state) * static_cast<size_t>(num_classes_) + class_of_[byte]];
  }

  bool accepts(int32_t state) const { return (accepting_[static_cast<size_t>(state)] & 1) != 0; }

  // False if nothing can follow.
  bool goes_on(int32_t state) const { return (accepting_[static_cast<size_t>(state)] & 2) != 0; }

  bool Matches(std::string_view text) const;

  // Bytes of one class are alike in every state.
  int32_t num_classes() const { return num_classes_; }

  uint8_t class_of(uint8_t byte) const { return class_of_[byte]; }

 private:
  friend class DfaBuilder;
  std::array<uint8_t, 256> class_of_{};
  int32_t num_classes_ = 0;
  std::vector<int32_t> next_;       // [num_states, num_classes]
  std::vector<uint8_t> accepting_;  // bit 0: accepts, bit 1: goes on
};

// Takes states and edges in any order; edges of one state must not overlap.
class DfaBuilder {
 public:
  int32_t AddState(bool accepting);
  void AddEdge(int32_t from, uint8_t first, uint8_t last, int32_t to);

  int32_t num_states() const { return static_cast<int32_t>(states_.size()); }

  void set_accepting(int32_t state) { states_[static_cast<size_t>(state)].accepting = true; }

  // Drops what cannot be reached or leads nowhere. State 0 is the start.
  Dfa Build() const;

 private:
  struct Edge {
    uint8_t first, last;
    int32_t to;
  };

  struct State {
    std::vector<Edge> edges;
    bool accepting = false;
  };

  std::vector<uint8_t> FindUseful() const;

  std::vector<State> states_;
};

// Exactly these strings.
Dfa LiteralsDfa(const std::vector<std::string>& literals);

absl::StatusOr<Dfa> Intersect(const Dfa& a, const Dfa& b, Budget* budget);
// What `a` accepts and `b` does not.
absl::StatusOr<Dfa> Subtract(const Dfa& a, const Dfa& b, Budget* budget);

// The automaton of a function: `next(state, byte)` returns std::optional<State>, `accepts(state)` a
// bool. State is hashable by absl and equality comparable. `bytes` holds one byte of each kind, and
// `last_of` the last byte of its kind (kinds are ranges).
struct ByteRange {
  uint8_t first, last;
};

template <typename State, typename Next, typename Accepts>
absl::StatusOr<Dfa> ExploreDfa(const State& start,
                               const std::vector<ByteRange>& kinds,
                               const Next& next,
                               const Accepts& accepts,
                               Budget* budget) {
  DfaBuilder builder;
  absl::flat_hash_map<State, int32_t> ids;
  std::vector<State> states = {start};
  ids.emplace(start, builder.AddState(accepts(start)));
  for (size_t at = 0; at < states.size(); ++at) {
    RETURN_IF_ERROR(budget->Spend(static_cast<int64_t>(kinds.size())));
    for (const ByteRange& kind : kinds) {
      const State from = states[at];
      const auto to = next(from, kind.first);
      if (!to) {
        continue;
      }
      const auto [found, is_new] = ids.try_emplace(*to, builder.num_states());
      if (is_new) {
        if (builder.num_states() >= Budget::kMaxDfaStates) {
          return Budget::TooLarge();
        }
        builder.AddState(accepts(*to));
        states.push_back(*to);
      }
      builder.AddEdge(static_cast<int32_t>(at), kind.first, kind.last, found->second);
    }
  }
  return builder.Build();
}

}  // namespace ringserve
