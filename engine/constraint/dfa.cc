#include "engine/constraint/dfa.h"

#include <algorithm>
#include <bitset>
#include <optional>
#include <utility>

namespace ringserve {
namespace {

// Ranges of bytes that neither automaton tells apart.
std::vector<ByteRange> CommonKinds(const Dfa& a, const Dfa& b) {
  std::vector<ByteRange> kinds;
  for (int byte = 0; byte < 256; ++byte) {
    const auto at = static_cast<uint8_t>(byte);
    const auto before = static_cast<uint8_t>(byte - 1);
    if (byte > 0 && a.class_of(at) == a.class_of(before) && b.class_of(at) == b.class_of(before)) {
      kinds.back().last = at;
    } else {
      kinds.push_back({at, at});
    }
  }
  return kinds;
}

}  // namespace

bool Dfa::Matches(std::string_view text) const {
  if (empty()) {
    return false;
  }
  int32_t state = 0;
  for (const char byte : text) {
    state = Next(state, static_cast<uint8_t>(byte));
    if (state == kDead) {
      return false;
    }
  }
  return accepts(state);
}

int32_t DfaBuilder::AddState(bool accepting) {
  states_.push_back({{}, accepting});
  return num_states() - 1;
}

void DfaBuilder::AddEdge(int32_t from, uint8_t first, uint8_t last, int32_t to) {
  std::vector<Edge>& edges = states_[static_cast<size_t>(from)].edges;
  if (!edges.empty() && edges.back().to == to && edges.back().last + 1 == first) {
    edges.back().last = last;
  } else {
    edges.push_back({first, last, to});
  }
}

// Reached from the start (bit 0) and able to reach acceptance (bit 1).
std::vector<uint8_t> DfaBuilder::FindUseful() const {
  std::vector<uint8_t> useful(states_.size(), 0);
  std::vector<int32_t> stack;
  std::vector<std::vector<int32_t>> sources(states_.size());
  const auto mark = [&](int32_t state, uint8_t bit) {
    uint8_t& bits = useful[static_cast<size_t>(state)];
    if ((bits & bit) == 0) {
      bits |= bit;
      stack.push_back(state);
    }
  };
  if (!states_.empty()) {
    mark(0, 1);
  }
  while (!stack.empty()) {
    const int32_t state = stack.back();
    stack.pop_back();
    for (const Edge& edge : states_[static_cast<size_t>(state)].edges) {
      sources[static_cast<size_t>(edge.to)].push_back(state);
      mark(edge.to, 1);
    }
  }
  for (int32_t state = 0; state < num_states(); ++state) {
    if (states_[static_cast<size_t>(state)].accepting) {
      mark(state, 2);
    }
  }
  while (!stack.empty()) {
    const int32_t state = stack.back();
    stack.pop_back();
    for (const int32_t source : sources[static_cast<size_t>(state)]) {
      mark(source, 2);
    }
  }
  return useful;
}

Dfa DfaBuilder::Build() const {
  const std::vector<uint8_t> useful = FindUseful();
  Dfa dfa;
  if (useful.empty() || useful[0] != 3) {
    return dfa;
  }
  std::vector<int32_t> ids(states_.size(), Dfa::kDead);
  int32_t num_kept = 0;
  std::bitset<257> begins;  // of a kind of bytes
  begins.set(0);
  for (size_t i = 0; i < states_.size(); ++i) {
    if (useful[i] != 3) {
      continue;
    }
    ids[i] = num_kept++;
    for (const Edge& edge : states_[i].edges) {
      if (useful[static_cast<size_t>(edge.to)] == 3) {
        begins.set(edge.first);
        begins.set(size_t{edge.last} + 1);
      }
    }
  }
  int32_t num_classes = 0;
  for (size_t byte = 0; byte < 256; ++byte) {
    num_classes += begins[byte] ? 1 : 0;
    dfa.class_of_[byte] = static_cast<uint8_t>(num_classes - 1);
  }
  dfa.num_classes_ = num_classes;
  const auto width = static_cast<size_t>(num_classes);
  dfa.next_.assign(static_cast<size_t>(num_kept) * width, Dfa::kDead);
  dfa.accepting_.assign(static_cast<size_t>(num_kept), 0);
  for (size_t i = 0; i < states_.size(); ++i) {
    if (ids[i] == Dfa::kDead) {
      continue;
    }
    const auto id = static_cast<size_t>(ids[i]);
    dfa.accepting_[id] = states_[i].accepting ? 1 : 0;
    for (const Edge& edge : states_[i].edges) {
      const int32_t to = ids[static_cast<size_t>(edge.to)];
      if (to == Dfa::kDead) {
        continue;
      }
      dfa.accepting_[id] |= 2;
      std::fill(
          dfa.next_.begin() + static_cast<std::ptrdiff_t>(id * width + dfa.class_of_[edge.first]),
          dfa.next_.begin() +
              static_cast<std::ptrdiff_t>(id * width + dfa.class_of_[edge.last] + 1),
          to);
    }
  }
  return dfa;
}

Dfa LiteralsDfa(const std::vector<std::string>& literals) {
  DfaBuilder builder;
  builder.AddState(false);
  absl::flat_hash_map<std::pair<int32_t, uint8_t>, int32_t> children;
  for (const std::string& literal : literals) {
    int32_t state = 0;
    for (const char c : literal) {
      const auto byte = static_cast<uint8_t>(c);
      const auto [found, is_new] = children.try_emplace({state, byte}, builder.num_states());
      if (is_new) {
        builder.AddEdge(state, byte, byte, builder.AddState(false));
      }
      state = found->second;
    }
    builder.set_accepting(state);
  }
  return builder.Build();
}

absl::StatusOr<Dfa> Intersect(const Dfa& a, const Dfa& b, Budget* budget) {
  if (a.empty() || b.empty()) {
    return Dfa();
  }
  using State = std::pair<int32_t, int32_t>;
  const auto next = [&](const State& from, uint8_t byte) -> std::optional<State> {
    const State to = {a.Next(from.first, byte), b.Next(from.second, byte)};
    return to.first == Dfa::kDead || to.second == Dfa::kDead ? std::nullopt : std::optional(to);
  };
  const auto accepts = [&](const State& state) {
    return a.accepts(state.first) && b.accepts(state.second);
  };
  return ExploreDfa(State{0, 0}, CommonKinds(a, b), next, accepts, budget);
}

absl::StatusOr<Dfa> Subtract(const Dfa& a, const Dfa& b, Budget* budget) {
  if (a.empty() || b.empty()) {
    return a;
  }
  using State = std::pair<int32_t, int32_t>;
  const auto next = [&](const State& from, uint8_t byte) -> std::optional<State> {
    const State to = {a.Next(from.first, byte),
                      from.second == Dfa::kDead ? Dfa::kDead : b.Next(from.second, byte)};
    return to.first == Dfa::kDead ? std::nullopt : std::optional(to);
  };
  const auto accepts = [&](const State& state) {
    return a.accepts(state.first) && (state.second == Dfa::kDead || !b.accepts(state.second));
  };
  return ExploreDfa(State{0, 0}, CommonKinds(a, b), next, accepts, budget);
}

}  // namespace ringserve
