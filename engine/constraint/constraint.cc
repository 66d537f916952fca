#include "engine/constraint/constraint.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/constraint/pattern_dfa.h"
#include "engine/constraint/schema_compiler.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

// An automaton that remembers more is left to the completions that use it.
constexpr size_t kMaxAutomatonBytes = size_t{32} << 20;
constexpr size_t kMaxKept = 64;
constexpr size_t kMaxKeptBytes = size_t{256} << 20;
// Nodes of the vocabulary's trie that are looked at beforehand: about 10 ms.
constexpr int64_t kPrepareWork = 2'000'000;

class Matcher final : public TokenConstraint {
 public:
  explicit Matcher(std::shared_ptr<Automaton> automaton)
      : automaton_(std::move(automaton)), states_(1, Automaton::kStart) {}

  std::span<const uint64_t> Allowed() override { return automaton_->Mask(states_.back()); }

  bool MayEnd() override { return automaton_->Accepts(states_.back()); }

  bool Take(int32_t token_id) override {
    const int32_t next = automaton_->NextToken(states_.back(), token_id);
    if (next == Automaton::kDead) {
      return false;
    }
    states_.push_back(next);
    return true;
  }

  void Undo(int64_t num_tokens) override {
    states_.resize(states_.size() - static_cast<size_t>(num_tokens));
  }

 private:
  const std::shared_ptr<Automaton> automaton_;  // shared with the constraint and its other matchers
  std::vector<int32_t> states_;                 // after each token
};

}  // namespace

Constraint::Constraint(std::shared_ptr<const Grammar> grammar,
                       std::shared_ptr<const Vocabulary> vocabulary)
    : grammar_(std::move(grammar)),
      vocabulary_(std::move(vocabulary)),
      automaton_(std::make_shared<Automaton>(grammar_, vocabulary_)) {
  int64_t work = kPrepareWork;
  for (const Grammar::Terminal& terminal : grammar_->terminals()) {
    work = terminal.index->Prepare(work);
  }
  automaton_->Mask(Automaton::kStart);
}

std::unique_ptr<TokenConstraint> Constraint::Begin() const {
  const absl::MutexLock lock(&mutex_);
  if (automaton_->num_bytes() > kMaxAutomatonBytes) {
    automaton_ = std::make_shared<Automaton>(grammar_, vocabulary_);
  }
  return std::make_unique<Matcher>(automaton_);
}

size_t Constraint::num_bytes() const {
  const absl::MutexLock lock(&mutex_);
  size_t bytes = automaton_->num_bytes();
  for (const Grammar::Terminal& terminal : grammar_->terminals()) {
    bytes += terminal.index.use_count() == 1 ? terminal.index->num_bytes() : 0;
  }
  return bytes;
}

ConstraintCompiler::ConstraintCompiler(std::shared_ptr<const Vocabulary> vocabulary)
    : vocabulary_(std::move(vocabulary)), terminals_(MakeJsonTerminals(vocabulary_)) {}

absl::StatusOr<std::shared_ptr<const Constraint>> ConstraintCompiler::JsonSchema(
    const std::string& schema) {
  const std::string key = "s" + schema;
  if (auto found = Find(key); found != nullptr) {
    return found;
  }
  Budget budget;
  ASSIGN_OR_RETURN(std::shared_ptr<const Grammar> grammar,
                   CompileSchema(schema, terminals_, vocabulary_, &budget));
  return Keep(key, std::move(grammar));
}

absl::StatusOr<std::shared_ptr<const Constraint>> ConstraintCompiler::JsonObject() {
  return JsonSchema(R"({"type": "object"})");
}

absl::StatusOr<std::shared_ptr<const Constraint>> ConstraintCompiler::Regex(
    const std::string& pattern) {
  const std::string key = "r" + pattern;
  if (auto found = Find(key); found != nullptr) {
    return found;
  }
  Budget budget;
  ASSIGN_OR_RETURN(Dfa dfa, PatternDfa(pattern, Match::kWhole, TextForm::kPlain, &budget));
  return OfDfa(key, std::move(dfa));
}

absl::StatusOr<std::shared_ptr<const Constraint>> ConstraintCompiler::Choices(
    const std::vector<std::string>& choices) {
  if (choices.empty() || choices.size() > kMaxChoices) {
    return absl::InvalidArgumentError(
        fmt::format("{} choices, not in [1, {}]", choices.size(), kMaxChoices));
  }
  std::string key = "c";
  for (size_t i = 0; i < choices.size(); ++i) {
    if (choices[i].empty()) {
      return absl::InvalidArgumentError(fmt::format("[{}]: empty", i));
    }
    if (const size_t valid = ValidUtf8Prefix(choices[i]); valid != choices[i].size()) {
      return absl::InvalidArgumentError(fmt::format("[{}]: not UTF-8 at byte {}", i, valid));
    }
    key += std::to_string(choices[i].size()) + ":" + choices[i];
  }
  if (key.size() > kMaxChoiceBytes) {
    return absl::InvalidArgumentError(fmt::format("more than {} bytes together", kMaxChoiceBytes));
  }
  if (auto found = Find(key); found != nullptr) {
    return found;
  }
  return OfDfa(key, LiteralsDfa(choices));
}

absl::StatusOr<std::shared_ptr<const Constraint>> ConstraintCompiler::OfDfa(const std::string& key,
                                                                            Dfa dfa) {
  dfa = Spellable(std::move(dfa), *vocabulary_);
  if (dfa.empty()) {
    return absl::InvalidArgumentError("no text matches it");
  }
  auto grammar = std::make_shared<Grammar>();
  const int32_t terminal = grammar->AddTerminal(
      {.index = std::make_shared<TokenIndex>(vocabulary_, std::move(dfa), /*counted=*/false)});
  const int32_t rule = grammar->AddRule();
  grammar->SetRule(rule, grammar->Match(terminal, grammar->Return()));
  grammar->Finish(rule);
  return Keep(key, std::move(grammar));
}

std::shared_ptr<const Constraint> ConstraintCompiler::Find(const std::string& key) {
  const absl::MutexLock lock(&mutex_);
  const auto found = ids_.find(key);
  if (found == ids_.end()) {
    return nullptr;
  }
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->second;
}

std::shared_ptr<const Constraint> ConstraintCompiler::Keep(const std::string& key,
                                                           std::shared_ptr<const Grammar> grammar) {
  auto constraint = std::make_shared<const Constraint>(std::move(grammar), vocabulary_);
  const absl::MutexLock lock(&mutex_);
  if (const auto found = ids_.find(key); found != ids_.end()) {
    return found->second->second;  // somebody was faster
  }
  entries_.emplace_front(key, constraint);
  ids_.emplace(key, entries_.begin());
  size_t num_bytes = 0;
  size_t num_kept = 0;
  for (auto at = entries_.begin(); at != entries_.end();) {
    num_bytes += at->second->num_bytes() + at->first.size();
    if (++num_kept > kMaxKept || (num_kept > 1 && num_bytes > kMaxKeptBytes)) {
      ids_.erase(at->first);
      at = entries_.erase(at);
    } else {
      ++at;
    }
  }
  return constraint;
}

}  // namespace ringserve
