// Runs a grammar over bytes and tokens. A state is all that the text so far may be in the middle
// of; states, the steps between them and their masks are made when they are first needed and kept,
// so that a state is a number: going back is taking an earlier one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/container/flat_hash_map.h>
#include <absl/synchronization/mutex.h>

#include "engine/constraint/grammar.h"
#include "engine/constraint/stacks.h"
#include "engine/constraint/vocabulary.h"

namespace ringserve {

// Any thread.
class Automaton {
 public:
  static constexpr int32_t kDead = -1;
  static constexpr int32_t kStart = 0;

  Automaton(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const Vocabulary> vocabulary);

  // kDead if the text so far cannot go on so. Requires a state that is alive.
  int32_t Next(int32_t state, uint8_t byte);
  int32_t NextToken(int32_t state, int32_t token_id);

  // The text may end here.
  bool Accepts(int32_t state);

  // A bit for each token that may come next; stays as long as the automaton.
  std::span<const uint64_t> Mask(int32_t state);

  // What is kept, about.
  size_t num_bytes();

 private:
  // A terminal that the text is inside of.
  struct Thread {
    int32_t terminal = 0;
    int32_t state = 0;
    int32_t count = 0;   // units so far, as far as it matters
    int32_t stacks = 0;  // what follows it

    auto place() const { return std::tuple(terminal, state, count); }

    bool operator==(const Thread&) const = default;
  };

  struct State {
    std::vector<Thread> threads;  // ascending by place, each place once
    bool accepts = false;
    const std::vector<uint64_t>* mask = nullptr;
  };

  // One closure: what is reached without a byte.
  struct Closure {
    absl::flat_hash_map<std::pair<int32_t, int32_t>, int32_t> stacks;  // by instruction and count
    std::deque<std::pair<int32_t, int32_t>> queue;
    absl::flat_hash_map<std::pair<int32_t, int32_t>, bool> is_queued;
    std::vector<Thread> threads;
    bool accepts = false;
  };

  // What tokens spell after the text so far. Nothing leads back to the start.
  const Vocabulary& VocabularyAt(int32_t state) const;

  int32_t Step(int32_t state, uint8_t byte) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int32_t Move(int32_t state, uint8_t byte) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enter(Closure* closure, int32_t instruction, int32_t count, int32_t stacks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EnterFrames(Closure* closure, int32_t stacks) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run(Closure* closure) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Execute(Closure* closure, int32_t instruction, int32_t count, int32_t stacks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Repeat(Closure* closure, int32_t instruction, int32_t count, int32_t stacks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int32_t Intern(Closure* closure) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int32_t StateAfter(int32_t stacks) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  TokenIndex::Limits LimitsOf(const Thread& thread) const;
  void AddTokens(int32_t state, std::vector<uint64_t>* mask) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddTokensBelow(const Vocabulary& vocabulary,
                      int32_t node,
                      int32_t state,
                      std::vector<uint64_t>* mask) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<const Grammar> grammar_;
  const std::shared_ptr<const Vocabulary> vocabulary_;
  absl::Mutex mutex_;
  Stacks stacks_ ABSL_GUARDED_BY(mutex_);
  std::vector<State> states_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, int32_t> state_ids_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, int32_t> steps_ ABSL_GUARDED_BY(mutex_);        // by state and byte
  absl::flat_hash_map<int32_t, int32_t> states_after_ ABSL_GUARDED_BY(mutex_);  // by stacks
  // By what of a state its mask depends on.
  absl::flat_hash_map<std::string, std::unique_ptr<const std::vector<uint64_t>>> masks_
      ABSL_GUARDED_BY(mutex_);
  std::vector<int32_t> path_ ABSL_GUARDED_BY(mutex_);  // of AddTokensBelow
  size_t num_thread_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ringserve
