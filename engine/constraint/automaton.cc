#include "engine/constraint/automaton.h"

#include <algorithm>
#include <tuple>

#include "engine/base/check.h"

namespace ringserve {
namespace {

uint64_t StepKey(int32_t state, uint8_t byte) {
  return uint64_t{static_cast<uint32_t>(state)} << 8 | byte;
}

// Of a pointer, where it points.
template <typename T>
void Append(const T& value, std::string* key) {
  // NOLINTNEXTLINE(bugprone-sizeof-expression)
  key->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

Automaton::Automaton(std::shared_ptr<const Grammar> grammar,
                     std::shared_ptr<const Vocabulary> vocabulary)
    : grammar_(std::move(grammar)), vocabulary_(std::move(vocabulary)) {
  const absl::MutexLock lock(&mutex_);
  Closure closure;
  Enter(&closure, grammar_->entry(grammar_->start()), 0, Stacks::kBottom);
  Run(&closure);
  const int32_t start = Intern(&closure);
  RS_CHECK(start == kStart);
}

int32_t Automaton::Next(int32_t state, uint8_t byte) {
  const absl::MutexLock lock(&mutex_);
  return Step(state, byte);
}

int32_t Automaton::NextToken(int32_t state, int32_t token_id) {
  const std::string_view bytes = VocabularyAt(state).bytes(token_id);
  if (bytes.empty()) {
    return kDead;
  }
  const absl::MutexLock lock(&mutex_);
  for (const char byte : bytes) {
    state = Step(state, static_cast<uint8_t>(byte));
    if (state == kDead) {
      return kDead;
    }
  }
  return state;
}

bool Automaton::Accepts(int32_t state) {
  const absl::MutexLock lock(&mutex_);
  return states_[static_cast<size_t>(state)].accepts;
}

std::span<const uint64_t> Automaton::Mask(int32_t state) {
  const absl::MutexLock lock(&mutex_);
  if (const auto* mask = states_[static_cast<size_t>(state)].mask; mask != nullptr) {
    return *mask;
  }
  // States that differ in counts alone, and not near a limit, have one mask.
  std::string key;
  for (const Thread& thread : states_[static_cast<size_t>(state)].threads) {
    const TokenIndex::Limits limits = LimitsOf(thread);
    const auto* index = grammar_->terminal(thread.terminal).index.get();
    Append(index, &key);
    Append(thread.state, &key);
    Append(limits.most, &key);
    Append(limits.least, &key);
    Append(thread.stacks, &key);
  }
  std::unique_ptr<const std::vector<uint64_t>>& slot = masks_[key];
  if (slot == nullptr) {
    std::vector<uint64_t> mask(vocabulary_->num_words(), 0);
    if (state == kStart && vocabulary_->at_start() != nullptr) {
      AddTokensBelow(*vocabulary_->at_start(), 0, state, &mask);
    } else {
      AddTokens(state, &mask);
    }
    slot = std::make_unique<const std::vector<uint64_t>>(std::move(mask));
  }
  states_[static_cast<size_t>(state)].mask = slot.get();
  return *slot;
}

size_t Automaton::num_bytes() {
  const absl::MutexLock lock(&mutex_);
  return stacks_.num_bytes() + num_thread_bytes_ + states_.size() * (sizeof(State) + 80) +
         steps_.size() * 24 + masks_.size() * (vocabulary_->num_words() * 8 + 120);
}

const Vocabulary& Automaton::VocabularyAt(int32_t state) const {
  const Vocabulary* const at_start = vocabulary_->at_start();
  return state == kStart && at_start != nullptr ? *at_start : *vocabulary_;
}

int32_t Automaton::Step(int32_t state, uint8_t byte) {
  const uint64_t key = StepKey(state, byte);
  if (const auto found = steps_.find(key); found != steps_.end()) {
    return found->second;
  }
  const int32_t next = Move(state, byte);
  steps_.emplace(key, next);
  return next;
}

int32_t Automaton::Move(int32_t state, uint8_t byte) {
  Closure closure;
  for (const Thread& thread : states_[static_cast<size_t>(state)].threads) {
    const Grammar::Terminal& terminal = grammar_->terminal(thread.terminal);
    const Dfa& dfa = terminal.index->dfa();
    Thread moved = thread;
    moved.state = dfa.Next(thread.state, byte);
    if (moved.state == Dfa::kDead) {
      continue;
    }
    if (terminal.index->counted() && thread.state == 0) {
      if (byte == '"') {
        if (thread.count < terminal.min_units) {
          continue;
        }
        moved.count = 0;
      } else {
        if (thread.count >= terminal.max_units) {
          continue;
        }
        const bool is_open = terminal.max_units == Grammar::kUnbounded;
        moved.count = std::min(thread.count + 1, is_open ? terminal.min_units : terminal.max_units);
      }
    }
    if (dfa.accepts(moved.state)) {
      EnterFrames(&closure, moved.stacks);
    }
    if (dfa.goes_on(moved.state)) {
      closure.threads.push_back(moved);
    }
  }
  Run(&closure);
  return Intern(&closure);
}

void Automaton::EnterFrames(Closure* closure, int32_t stacks) {
  // A copy: what is entered may make new sets.
  const auto frames = stacks_.frames(stacks);
  const std::vector<Stacks::Frame> copy(frames.begin(), frames.end());
  for (const Stacks::Frame& frame : copy) {
    if (frame.instruction < 0) {
      closure->accepts = true;
    } else {
      Enter(closure, frame.instruction, frame.count, frame.below);
    }
  }
}

void Automaton::Enter(Closure* closure, int32_t instruction, int32_t count, int32_t stacks) {
  const std::pair<int32_t, int32_t> place = {instruction, count};
  int32_t& known = closure->stacks.try_emplace(place, Stacks::kNothing).first->second;
  const int32_t all = stacks_.Union(known, stacks);
  if (all == known) {
    return;
  }
  known = all;
  bool& is_queued = closure->is_queued[place];
  if (!is_queued) {
    is_queued = true;
    closure->queue.push_back(place);
  }
}

void Automaton::Run(Closure* closure) {
  while (!closure->queue.empty()) {
    const auto place = closure->queue.front();
    closure->queue.pop_front();
    closure->is_queued[place] = false;
    Execute(closure, place.first, place.second, closure->stacks[place]);
  }
}

void Automaton::Execute(Closure* closure, int32_t instruction, int32_t count, int32_t stacks) {
  const Grammar::Instruction& is = grammar_->at(instruction);
  switch (is.op) {
    case Grammar::Op::kReturn:
      EnterFrames(closure, stacks);
      return;
    case Grammar::Op::kTerminal: {
      const Dfa& dfa = grammar_->terminal(is.target).index->dfa();
      if (dfa.goes_on(0)) {
        const int32_t after = stacks_.Push({.instruction = is.next, .count = 0, .below = stacks});
        closure->threads.push_back({.terminal = is.target, .stacks = after});
      }
      if (dfa.accepts(0)) {
        Enter(closure, is.next, 0, stacks);
      }
      return;
    }
    case Grammar::Op::kChoice:
      for (const int32_t target : grammar_->targets(is)) {
        if (grammar_->at(target).height <= Grammar::kMaxDepth - stacks_.depth(stacks)) {
          Enter(closure, target, 0, stacks);
        }
      }
      return;
    case Grammar::Op::kCall:
      Enter(closure,
            grammar_->entry(is.target),
            0,
            stacks_.Push({.instruction = is.next, .count = 0, .below = stacks}));
      return;
    case Grammar::Op::kRepeat:
      Repeat(closure, instruction, count, stacks);
      return;
  }
}

// `count` rounds are done.
void Automaton::Repeat(Closure* closure, int32_t instruction, int32_t count, int32_t stacks) {
  const Grammar::Instruction& is = grammar_->at(instruction);
  if (count >= is.min) {
    Enter(closure, is.next, 0, stacks);
  }
  const int32_t room = Grammar::kMaxDepth - stacks_.depth(stacks) - 1;
  const bool may_go_on =
      count < is.min || (count < is.max && grammar_->at(grammar_->entry(is.target)).height <= room);
  if (may_go_on) {
    const int32_t most = is.max == Grammar::kUnbounded ? is.min : is.max;
    const int32_t after = stacks_.Push(
        {.instruction = instruction, .count = std::min(count + 1, most), .below = stacks});
    Enter(closure, grammar_->entry(is.target), 0, after);
  }
}

int32_t Automaton::Intern(Closure* closure) {
  std::vector<Thread>& threads = closure->threads;
  std::sort(threads.begin(), threads.end(), [](const Thread& a, const Thread& b) {
    return a.place() < b.place();
  });
  size_t kept = 0;
  for (size_t i = 0; i < threads.size(); ++i) {
    if (kept > 0 && threads[kept - 1].place() == threads[i].place()) {
      threads[kept - 1].stacks = stacks_.Union(threads[kept - 1].stacks, threads[i].stacks);
    } else {
      threads[kept++] = threads[i];
    }
  }
  threads.resize(kept);
  if (threads.empty() && !closure->accepts) {
    return kDead;
  }
  std::string key(reinterpret_cast<const char*>(threads.data()), kept * sizeof(Thread));
  key.push_back(closure->accepts ? 1 : 0);
  const auto [found, is_new] =
      state_ids_.try_emplace(std::move(key), static_cast<int32_t>(states_.size()));
  if (is_new) {
    num_thread_bytes_ += 2 * kept * sizeof(Thread);
    states_.push_back({.threads = std::move(threads), .accepts = closure->accepts});
  }
  return found->second;
}

int32_t Automaton::StateAfter(int32_t stacks) {
  const auto found = states_after_.find(stacks);
  if (found != states_after_.end()) {
    return found->second;
  }
  Closure closure;
  EnterFrames(&closure, stacks);
  Run(&closure);
  const int32_t state = Intern(&closure);
  states_after_.emplace(stacks, state);
  return state;
}

TokenIndex::Limits Automaton::LimitsOf(const Thread& thread) const {
  const Grammar::Terminal& terminal = grammar_->terminal(thread.terminal);
  if (!terminal.index->counted()) {
    return {};
  }
  const int32_t enough = terminal.index->MaxUnits();
  const int32_t most = terminal.max_units == Grammar::kUnbounded
                           ? enough
                           : std::min(terminal.max_units - thread.count, enough);
  const int32_t least = std::clamp(terminal.min_units - thread.count, 0, enough + 1);
  return {.most = most, .least = least};
}

void Automaton::AddTokens(int32_t state, std::vector<uint64_t>* mask) {
  // A copy: crossings make new states.
  const std::vector<Thread> threads = states_[static_cast<size_t>(state)].threads;
  for (const Thread& thread : threads) {
    TokenIndex& index = *grammar_->terminal(thread.terminal).index;
    const auto tokens = index.At(thread.state, LimitsOf(thread));
    tokens->AddTo(mask);
    if (tokens->crossings.empty()) {
      continue;
    }
    const int32_t after = StateAfter(thread.stacks);
    if (after == kDead) {
      continue;
    }
    for (const int32_t node : tokens->crossings) {
      AddTokensBelow(*vocabulary_, node, after, mask);
    }
  }
}

void Automaton::AddTokensBelow(const Vocabulary& vocabulary,
                               int32_t node,
                               int32_t state,
                               std::vector<uint64_t>* mask) {
  const std::span<const Vocabulary::Node> nodes = vocabulary.nodes();
  const Vocabulary::Node& top = nodes[static_cast<size_t>(node)];
  path_.resize(static_cast<size_t>(vocabulary.max_token_bytes()) + 1);
  path_[top.depth] = state;
  for (auto at = static_cast<size_t>(node) + 1; at < static_cast<size_t>(top.end);) {
    const Vocabulary::Node& is = nodes[at];
    const int32_t next = Step(path_[is.depth - 1U], is.byte);
    if (next == kDead) {
      at = static_cast<size_t>(is.end);
      continue;
    }
    path_[is.depth] = next;
    if (is.tokens >= 0) {
      for (const int32_t id : vocabulary.ids(is.tokens)) {
        (*mask)[static_cast<size_t>(id) / 64] |= uint64_t{1} << (static_cast<size_t>(id) % 64);
      }
    }
    ++at;
  }
}

}  // namespace ringserve
