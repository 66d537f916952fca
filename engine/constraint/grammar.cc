#include "engine/constraint/grammar.h"

#include <algorithm>
#include <utility>

namespace ringserve {
namespace {

// What needs more than there is cannot be reached at all.
int32_t Above(int32_t height) {
  return height >= Grammar::kMaxDepth ? Grammar::kUnbounded : height + 1;
}

}  // namespace

Grammar::Grammar() : instructions_(1) {
  instructions_[0].height = 0;
}

int32_t Grammar::AddTerminal(Terminal terminal) {
  terminals_.push_back(std::move(terminal));
  return static_cast<int32_t>(terminals_.size()) - 1;
}

int32_t Grammar::AddRule() {
  entries_.push_back(0);
  return static_cast<int32_t>(entries_.size()) - 1;
}

int32_t Grammar::Add(const Instruction& instruction) {
  instructions_.push_back(instruction);
  return static_cast<int32_t>(instructions_.size()) - 1;
}

int32_t Grammar::Match(int32_t terminal, int32_t next) {
  return Add({.op = Op::kTerminal, .target = terminal, .next = next});
}

int32_t Grammar::Choice(std::span<const int32_t> targets) {
  if (targets.size() == 1) {
    return targets[0];
  }
  const auto first = static_cast<int32_t>(targets_.size());
  targets_.insert(targets_.end(), targets.begin(), targets.end());
  return Add({.op = Op::kChoice, .target = first, .next = static_cast<int32_t>(targets.size())});
}

int32_t Grammar::Call(int32_t rule, int32_t next) {
  return Add({.op = Op::kCall, .target = rule, .next = next});
}

int32_t Grammar::Repeat(int32_t rule, int32_t min, int32_t max, int32_t next) {
  if (max == 0) {
    return next;
  }
  return Add({.op = Op::kRepeat, .target = rule, .next = next, .min = min, .max = max});
}

int32_t Grammar::HeightOf(const Instruction& instruction) const {
  const auto height = [this](int32_t at) { return instructions_[static_cast<size_t>(at)].height; };
  switch (instruction.op) {
    case Op::kReturn:
      return 0;
    case Op::kTerminal:
      return terminal(instruction.target).index->dfa().empty()
                 ? kUnbounded
                 : std::max(1, height(instruction.next));
    case Op::kChoice: {
      int32_t best = kUnbounded;
      for (const int32_t target : targets(instruction)) {
        best = std::min(best, height(target));
      }
      return best;
    }
    case Op::kCall:
      return std::max(Above(height(entry(instruction.target))), height(instruction.next));
    case Op::kRepeat:
      return instruction.min == 0
                 ? height(instruction.next)
                 : std::max(Above(height(entry(instruction.target))), height(instruction.next));
  }
  return kUnbounded;
}

bool Grammar::is_too_wide() const {
  std::vector<int32_t> widths(instructions_.size(), 0);
  const auto width = [&](int32_t at) { return widths[static_cast<size_t>(at)]; };
  const auto of = [&](const Instruction& is) {
    switch (is.op) {
      case Op::kReturn:
        return 0;
      case Op::kTerminal: {
        const Dfa& dfa = terminal(is.target).index->dfa();
        return dfa.empty() ? 0 : dfa.accepts(0) ? 1 + width(is.next) : 1;
      }
      case Op::kChoice: {
        int32_t sum = 0;
        for (const int32_t target : targets(is)) {
          sum = std::min(sum + width(target), kMaxWidth + 1);
        }
        return sum;
      }
      case Op::kCall:
        return width(entry(is.target));
      case Op::kRepeat:
        return width(entry(is.target)) + width(is.next);
    }
    return 0;
  };
  // Widths only grow, up to the limit; few rounds, as for heights.
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < instructions_.size(); ++i) {
      const int32_t now = of(instructions_[i]);
      if (now > kMaxWidth) {
        return true;
      }
      changed = changed || now != widths[i];
      widths[i] = now;
    }
  }
  return false;
}

bool Grammar::Finish(int32_t start) {
  start_ = start;
  // Heights only fall. Instructions refer to earlier ones, calls to rules of either side: rounds in
  // both directions are few.
  bool changed = true;
  const auto update = [&](Instruction& instruction) {
    const int32_t height = HeightOf(instruction);
    if (height < instruction.height) {
      instruction.height = height;
      changed = true;
    }
  };
  while (changed) {
    changed = false;
    std::for_each(instructions_.begin(), instructions_.end(), update);
    std::for_each(instructions_.rbegin(), instructions_.rend(), update);
  }
  return at(entry(start)).height < kMaxDepth;
}

}  // namespace ringserve
