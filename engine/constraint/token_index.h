// Which tokens an automaton of bytes takes, state by state: those that stay inside it, and the
// places in the vocabulary's trie where it may end and something else must go on. Both depend on
// the state alone, not on what surrounds the automaton, so that they are found once: the split
// into context-independent and context-dependent tokens of XGrammar (Dong et al. 2024,
// arXiv:2411.15100), with masks found on demand, along a trie of the vocabulary as in llguidance.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/container/flat_hash_map.h>
#include <absl/synchronization/mutex.h>

#include "engine/constraint/dfa.h"
#include "engine/constraint/vocabulary.h"

namespace ringserve {

// Any thread.
class TokenIndex {
 public:
  // A counted automaton is that of a JSON string: in state 0 a unit (a character) begins with any
  // byte but '"', which ends the string.
  TokenIndex(std::shared_ptr<const Vocabulary> vocabulary, Dfa dfa, bool counted)
      : vocabulary_(std::move(vocabulary)), dfa_(std::move(dfa)), counted_(counted) {}

  const Dfa& dfa() const { return dfa_; }

  bool counted() const { return counted_; }

  // How many units may still begin, and how many must before the end; of automata that are not
  // counted both are 0. More than MaxUnits() is as good as that.
  struct Limits {
    int32_t most = 0, least = 0;
    bool operator==(const Limits&) const = default;
  };

  int32_t MaxUnits() const { return vocabulary_->max_token_bytes(); }

  struct Tokens {
    // Token ids, as bits if there are many.
    std::vector<int32_t> sparse;
    std::vector<uint64_t> dense;
    // Nodes where the automaton may end and longer tokens go on.
    std::vector<int32_t> crossings;

    void AddTo(std::vector<uint64_t>* mask) const;

    size_t num_bytes() const {
      return sizeof(Tokens) + sparse.size() * 4 + dense.size() * 8 + crossings.size() * 4;
    }
  };

  // For the texts that go on from `state`, which is alive.
  std::shared_ptr<const Tokens> At(int32_t state, Limits limits);

  // What is kept, about.
  size_t num_bytes();

  // Finds the tokens of its states until about `work` nodes were looked at. What is left of it.
  int64_t Prepare(int64_t work);

 private:
  struct Key {
    int32_t state;
    Limits limits;
    bool operator==(const Key&) const = default;

    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.state, key.limits.most, key.limits.least);
    }
  };

  std::shared_ptr<const Tokens> Find(int32_t state, Limits limits, int64_t* work) const;
  // Finds and keeps; forgets all others if they have become too many.
  const std::shared_ptr<const Tokens>& Keep(const Key& key, int64_t* work)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<const Vocabulary> vocabulary_;
  const Dfa dfa_;
  const bool counted_;
  absl::Mutex mutex_;
  // Shared with who is using them.
  absl::flat_hash_map<Key, std::shared_ptr<const Tokens>> found_ ABSL_GUARDED_BY(mutex_);
  size_t num_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ringserve
