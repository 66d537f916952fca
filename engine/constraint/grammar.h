// What a constraint compiles to: rules over automata of bytes, as instructions of a machine with a
// stack (automaton.h runs it). A rule is entered with a frame to return to. Rules are built from
// their end: each Add returns the instruction to continue with, and is given the one that follows.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "engine/constraint/dfa.h"
#include "engine/constraint/token_index.h"

namespace ringserve {

class Grammar {
 public:
  static constexpr int32_t kUnbounded = std::numeric_limits<int32_t>::max();
  // Frames of the deepest stack. A JSON value in an array or object takes one or two.
  static constexpr int32_t kMaxDepth = 128;
  static constexpr int32_t kMaxInstructions = 200'000;
  // Terminals that may begin at one place: what a step of the automaton has to look at.
  static constexpr int32_t kMaxWidth = 2000;

  // A regular piece. Of a counted one (TokenIndex) the units are bounded.
  struct Terminal {
    std::shared_ptr<TokenIndex> index;  // owned here, or by the vocabulary and all that share it
    int32_t min_units = 0, max_units = kUnbounded;
  };

  enum class Op : uint8_t { kReturn, kTerminal, kChoice, kCall, kRepeat };

  struct Instruction {
    Op op = Op::kReturn;
    int32_t target = 0;        // the terminal; the rule; of a choice its first target
    int32_t next = 0;          // of a choice: how many targets
    int32_t min = 0, max = 0;  // kRepeat
    // Frames above the current one that the cheapest way to the rule's end needs.
    int32_t height = kUnbounded;
  };

  Grammar();

  int32_t AddTerminal(Terminal terminal);
  int32_t AddRule();

  void SetRule(int32_t rule, int32_t entry) { entries_[static_cast<size_t>(rule)] = entry; }

  int32_t Return() const { return 0; }

  int32_t Match(int32_t terminal, int32_t next);
  // Any of the targets; none: nothing matches.
  int32_t Choice(std::span<const int32_t> targets);
  int32_t Call(int32_t rule, int32_t next);
  // The rule `min` to `max` times.
  int32_t Repeat(int32_t rule, int32_t min, int32_t max, int32_t next);

  // Once all rules are set. False if the start rule matches nothing.
  bool Finish(int32_t start);

  // Once finished. True if more than kMaxWidth terminals may begin at one place.
  bool is_too_wide() const;

  bool is_too_large() const { return instructions_.size() > kMaxInstructions; }

  int32_t start() const { return start_; }

  int32_t entry(int32_t rule) const { return entries_[static_cast<size_t>(rule)]; }

  const Instruction& at(int32_t instruction) const {
    return instructions_[static_cast<size_t>(instruction)];
  }

  std::span<const int32_t> targets(const Instruction& choice) const {
    return std::span(targets_).subspan(static_cast<size_t>(choice.target),
                                       static_cast<size_t>(choice.next));
  }

  const Terminal& terminal(int32_t index) const { return terminals_[static_cast<size_t>(index)]; }

  std::span<const Terminal> terminals() const { return terminals_; }

 private:
  int32_t Add(const Instruction& instruction);
  int32_t HeightOf(const Instruction& instruction) const;

  std::vector<Terminal> terminals_;
  std::vector<Instruction> instructions_;
  std::vector<int32_t> targets_;
  std::vector<int32_t> entries_;  // by rule
  int32_t start_ = 0;
};

}  // namespace ringserve
