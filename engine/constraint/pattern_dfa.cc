#include "engine/constraint/pattern_dfa.h"

#include <algorithm>
#include <bitset>
#include <cstdint>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/constraint/pattern_parser.h"

namespace ringserve {
namespace {

struct Edge {
  enum class When : uint8_t { kAlways, kAtBegin, kAtEnd, kOnByte };

  When when;
  uint8_t first, last;  // kOnByte
  int32_t to;
};

class Nfa {
 public:
  explicit Nfa(TextForm form, Budget* budget) : form_(form), budget_(budget) {}

  absl::StatusOr<int32_t> AddState() {
    if (states_.size() >= Budget::kMaxNfaStates) {
      return Budget::TooLarge();
    }
    RETURN_IF_ERROR(budget_->Spend(4));
    states_.emplace_back();
    return static_cast<int32_t>(states_.size()) - 1;
  }

  void Link(int32_t from, int32_t to, Edge::When when = Edge::When::kAlways) {
    states_[static_cast<size_t>(from)].push_back({when, 0, 0, to});
  }

  // Each builds what leads from `from` and returns where it ends.
  absl::StatusOr<int32_t> AddSet(const CharSet& set, int32_t from) {
    ASSIGN_OR_RETURN(const int32_t end, AddState());
    const ByteGraph& graph = GraphOf(set);
    if (graph.nodes.empty()) {
      return end;
    }
    std::vector<int32_t> states(graph.nodes.size(), from);  // by node
    for (size_t node = 0; node < states.size(); ++node) {
      if (static_cast<int32_t>(node) != graph.start) {
        ASSIGN_OR_RETURN(states[node], AddState());
      }
    }
    for (size_t node = 0; node < states.size(); ++node) {
      for (const ByteGraph::Edge& edge : graph.nodes[node]) {
        const int32_t to = edge.to == ByteGraph::kEnd ? end : states[static_cast<size_t>(edge.to)];
        states_[static_cast<size_t>(states[node])].push_back(
            {Edge::When::kOnByte, edge.range.first, edge.range.last, to});
      }
    }
    return end;
  }

  absl::StatusOr<int32_t> Add(const PatternTree& tree, int32_t node, int32_t from) {
    const PatternNode& is = tree.nodes[static_cast<size_t>(node)];
    switch (is.kind) {
      case PatternNode::Kind::kEmpty:
        return from;
      case PatternNode::Kind::kSet:
        return AddSet(is.set, from);
      case PatternNode::Kind::kConcat:
        for (const int32_t child : is.children) {
          ASSIGN_OR_RETURN(from, Add(tree, child, from));
        }
        return from;
      case PatternNode::Kind::kAlternate: {
        ASSIGN_OR_RETURN(const int32_t end, AddState());
        for (const int32_t child : is.children) {
          ASSIGN_OR_RETURN(const int32_t begin, AddState());
          Link(from, begin);
          ASSIGN_OR_RETURN(const int32_t last, Add(tree, child, begin));
          Link(last, end);
        }
        return end;
      }
      case PatternNode::Kind::kRepeat:
        return AddRepeat(tree, is, from);
      case PatternNode::Kind::kBegin:
      case PatternNode::Kind::kEnd: {
        ASSIGN_OR_RETURN(const int32_t end, AddState());
        Link(from,
             end,
             is.kind == PatternNode::Kind::kBegin ? Edge::When::kAtBegin : Edge::When::kAtEnd);
        return end;
      }
    }
    RS_CHECK(false);
  }

  const std::vector<Edge>& edges(int32_t state) const {
    return states_[static_cast<size_t>(state)];
  }

  size_t num_states() const { return states_.size(); }

 private:
  const ByteGraph& GraphOf(const CharSet& set) {
    const std::vector<CharSet::Range>& ranges = set.ranges();
    std::string key(reinterpret_cast<const char*>(ranges.data()),
                    ranges.size() * sizeof(CharSet::Range));
    const auto [found, is_new] = graphs_.try_emplace(std::move(key));
    if (is_new) {
      found->second = ByteGraphOf(set, form_);
    }
    return found->second;
  }

  absl::StatusOr<int32_t> AddRepeat(const PatternTree& tree, const PatternNode& is, int32_t from) {
    for (int32_t i = 0; i < is.min; ++i) {
      ASSIGN_OR_RETURN(from, Add(tree, is.children[0], from));
    }
    if (is.max < 0) {
      ASSIGN_OR_RETURN(const int32_t loop, AddState());
      Link(from, loop);
      ASSIGN_OR_RETURN(const int32_t last, Add(tree, is.children[0], loop));
      Link(last, loop);
      ASSIGN_OR_RETURN(const int32_t end, AddState());
      Link(loop, end);
      return end;
    }
    ASSIGN_OR_RETURN(const int32_t end, AddState());
    for (int32_t i = is.min; i < is.max; ++i) {
      Link(from, end);
      ASSIGN_OR_RETURN(const int32_t begin, AddState());  // so that nothing leads back into `from`
      Link(from, begin);
      ASSIGN_OR_RETURN(from, Add(tree, is.children[0], begin));
    }
    Link(from, end);
    return end;
  }

  const TextForm form_;
  Budget* const budget_;
  std::vector<std::vector<Edge>> states_;
  absl::flat_hash_map<std::string, ByteGraph> graphs_;  // by the ranges of sets
};

class SubsetConstruction {
 public:
  SubsetConstruction(const Nfa& nfa, int32_t accepting, Budget* budget)
      : nfa_(nfa), accepting_(accepting), budget_(budget), seen_(nfa.num_states(), 0) {}

  absl::StatusOr<Dfa> Run(int32_t start) {
    FindKinds();
    std::vector<int32_t> first = {start};
    RETURN_IF_ERROR(Close(/*at_begin=*/true, /*at_end=*/false, &first));
    RETURN_IF_ERROR(Add(first, /*at_begin=*/true).status());
    std::vector<std::vector<int32_t>> targets(kinds_.size());
    for (size_t at = 0; at < sets_.size(); ++at) {
      for (auto& target : targets) {
        target.clear();
      }
      for (const int32_t state : sets_[at]) {
        for (const Edge& edge : nfa_.edges(state)) {
          if (edge.when != Edge::When::kOnByte) {
            continue;
          }
          RETURN_IF_ERROR(budget_->Spend(kind_of_[edge.last] - kind_of_[edge.first] + 1));
          for (size_t kind = kind_of_[edge.first]; kind <= kind_of_[edge.last]; ++kind) {
            targets[kind].push_back(edge.to);
          }
        }
      }
      for (size_t kind = 0; kind < kinds_.size(); ++kind) {
        if (targets[kind].empty()) {
          continue;
        }
        RETURN_IF_ERROR(Close(false, false, &targets[kind]));
        ASSIGN_OR_RETURN(const int32_t to, Add(targets[kind], false));
        builder_.AddEdge(static_cast<int32_t>(at), kinds_[kind].first, kinds_[kind].last, to);
      }
    }
    return builder_.Build();
  }

 private:
  void FindKinds() {
    std::bitset<257> begins;
    begins.set(0);
    for (size_t state = 0; state < nfa_.num_states(); ++state) {
      for (const Edge& edge : nfa_.edges(static_cast<int32_t>(state))) {
        if (edge.when == Edge::When::kOnByte) {
          begins.set(edge.first);
          begins.set(size_t{edge.last} + 1);
        }
      }
    }
    for (size_t byte = 0; byte < 256; ++byte) {
      if (begins[byte]) {
        kinds_.push_back({static_cast<uint8_t>(byte), static_cast<uint8_t>(byte)});
      }
      kinds_.back().last = static_cast<uint8_t>(byte);
      kind_of_[byte] = kinds_.size() - 1;
    }
  }

  // Adds what is reached without a byte; sorts.
  absl::Status Close(bool at_begin, bool at_end, std::vector<int32_t>* states) {
    ++stamp_;
    size_t kept = 0;
    for (const int32_t state : *states) {
      if (seen_[static_cast<size_t>(state)] != stamp_) {
        seen_[static_cast<size_t>(state)] = stamp_;
        (*states)[kept++] = state;
      }
    }
    states->resize(kept);
    for (size_t i = 0; i < states->size(); ++i) {
      RETURN_IF_ERROR(budget_->Spend(1));
      for (const Edge& edge : nfa_.edges((*states)[i])) {
        const bool passes = edge.when == Edge::When::kAlways ||
                            (edge.when == Edge::When::kAtBegin && at_begin) ||
                            (edge.when == Edge::When::kAtEnd && at_end);
        if (passes && seen_[static_cast<size_t>(edge.to)] != stamp_) {
          seen_[static_cast<size_t>(edge.to)] = stamp_;
          states->push_back(edge.to);
        }
      }
    }
    std::sort(states->begin(), states->end());
    return absl::OkStatus();
  }

  absl::StatusOr<int32_t> Add(const std::vector<int32_t>& set, bool at_begin) {
    // Nothing leads back to the text's beginning, so it is a state of its own.
    std::string key(reinterpret_cast<const char*>(set.data()), set.size() * sizeof(int32_t));
    key.push_back(at_begin ? 'b' : 'i');
    const auto [found, is_new] = ids_.try_emplace(std::move(key), builder_.num_states());
    if (is_new) {
      if (builder_.num_states() >= Budget::kMaxDfaStates) {
        return Budget::TooLarge();
      }
      std::vector<int32_t> at_end = set;
      RETURN_IF_ERROR(Close(at_begin, true, &at_end));
      builder_.AddState(std::binary_search(at_end.begin(), at_end.end(), accepting_));
      sets_.push_back(set);
    }
    return found->second;
  }

  const Nfa& nfa_;
  const int32_t accepting_;
  Budget* const budget_;
  DfaBuilder builder_;
  std::vector<ByteRange> kinds_;
  std::array<size_t, 256> kind_of_{};
  std::vector<std::vector<int32_t>> sets_;  // by state of the automaton
  absl::flat_hash_map<std::string, int32_t> ids_;
  std::vector<int64_t> seen_;
  int64_t stamp_ = 0;
};

CharSet AllCharacters() {
  return CharSet::Of(0, kMaxCodePoint);
}

}  // namespace

absl::StatusOr<Dfa> PatternDfa(std::string_view pattern,
                               Match match,
                               TextForm form,
                               Budget* budget) {
  ASSIGN_OR_RETURN(const PatternTree tree, ParsePattern(pattern, budget));
  Nfa nfa(form, budget);
  ASSIGN_OR_RETURN(const int32_t start, nfa.AddState());
  ASSIGN_OR_RETURN(const int32_t begin, nfa.AddState());
  nfa.Link(start, begin);
  if (match == Match::kSomewhere) {
    ASSIGN_OR_RETURN(const int32_t before, nfa.AddState());
    nfa.Link(start, before);
    ASSIGN_OR_RETURN(const int32_t after, nfa.AddSet(AllCharacters(), before));
    nfa.Link(after, before);
    nfa.Link(after, begin);
  }
  ASSIGN_OR_RETURN(const int32_t matched, nfa.Add(tree, tree.root, begin));
  ASSIGN_OR_RETURN(const int32_t end, nfa.AddState());
  nfa.Link(matched, end);
  if (match == Match::kSomewhere) {
    ASSIGN_OR_RETURN(const int32_t after, nfa.AddSet(AllCharacters(), end));
    nfa.Link(after, end);
  }
  return SubsetConstruction(nfa, end, budget).Run(start);
}

const Dfa& AnyTextDfa(TextForm form) {
  const auto make = [](TextForm of) {
    Budget budget;
    absl::StatusOr<Dfa> dfa = PatternDfa("", Match::kSomewhere, of, &budget);
    RS_CHECK(dfa.ok());
    return *std::move(dfa);
  };
  static const Dfa plain = make(TextForm::kPlain);
  static const Dfa json_string = make(TextForm::kJsonString);
  return form == TextForm::kPlain ? plain : json_string;
}

}  // namespace ringserve
