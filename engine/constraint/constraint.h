// Constrained output: a JSON schema, a regular expression or a list of choices, compiled to masks
// over a vocabulary before the first step. What a mask allows can always be completed; special
// tokens are never allowed, and a text may end exactly where the constraint is met.
//
// How it works. A constraint is a grammar whose terminals are automata over bytes (grammar.h,
// dfa.h). It runs lazily (automaton.h): states are sets of terminals that the text may be inside
// of, each with canonical sets of stacks below (stacks.h). A state's mask puts together what each
// terminal allows by itself, found once per vocabulary and terminal (token_index.h), and the few
// tokens that go beyond its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/container/flat_hash_map.h>
#include <absl/synchronization/mutex.h>

#include "engine/base/status.h"
#include "engine/constraint/automaton.h"
#include "engine/constraint/grammar.h"
#include "engine/constraint/json_terminals.h"
#include "engine/constraint/vocabulary.h"
#include "engine/request.h"

namespace ringserve {

// Immutable but for what it remembers. Any thread.
class Constraint {
 public:
  Constraint(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const Vocabulary> vocabulary);

  // For one completion.
  std::unique_ptr<TokenConstraint> Begin() const;

  // What is remembered, about.
  size_t num_bytes() const;

 private:
  const std::shared_ptr<const Grammar> grammar_;        // shared with automata in use
  const std::shared_ptr<const Vocabulary> vocabulary_;  // and these with all constraints
  mutable absl::Mutex mutex_;
  // Of the completions that begin; those that are under way share it, or an earlier one.
  mutable std::shared_ptr<Automaton> automaton_ ABSL_GUARDED_BY(mutex_);
};

// Compiles, and keeps what was compiled last. Any thread; meant for those of the front door: a
// compilation takes up to a tenth of a second.
class ConstraintCompiler {
 public:
  static constexpr size_t kMaxChoices = 10'000;
  static constexpr size_t kMaxChoiceBytes = size_t{256} << 10;

  explicit ConstraintCompiler(std::shared_ptr<const Vocabulary> vocabulary);

  // INVALID_ARGUMENT: malformed, not supported, too large, or met by no text. Messages begin with
  // the place in what was given ("#/properties/age: ...").
  absl::StatusOr<std::shared_ptr<const Constraint>> JsonSchema(const std::string& schema);
  absl::StatusOr<std::shared_ptr<const Constraint>> Regex(const std::string& pattern);
  absl::StatusOr<std::shared_ptr<const Constraint>> Choices(
      const std::vector<std::string>& choices);
  // Any JSON object.
  absl::StatusOr<std::shared_ptr<const Constraint>> JsonObject();

 private:
  using Entry = std::pair<std::string, std::shared_ptr<const Constraint>>;

  std::shared_ptr<const Constraint> Find(const std::string& key);
  std::shared_ptr<const Constraint> Keep(const std::string& key,
                                         std::shared_ptr<const Grammar> grammar);
  absl::StatusOr<std::shared_ptr<const Constraint>> OfDfa(const std::string& key, Dfa dfa);

  const std::shared_ptr<const Vocabulary> vocabulary_;
  const JsonTerminals terminals_;
  absl::Mutex mutex_;
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // the last used first
  absl::flat_hash_map<std::string, std::list<Entry>::iterator> ids_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ringserve
