#include "engine/constraint/token_index.h"

#include <algorithm>

namespace ringserve {
namespace {

// Of what one index keeps.
constexpr size_t kMaxBytes = size_t{16} << 20;

}  // namespace

void TokenIndex::Tokens::AddTo(std::vector<uint64_t>* mask) const {
  for (const int32_t id : sparse) {
    (*mask)[static_cast<size_t>(id) / 64] |= uint64_t{1} << (static_cast<size_t>(id) % 64);
  }
  for (size_t i = 0; i < dense.size(); ++i) {
    (*mask)[i] |= dense[i];
  }
}

std::shared_ptr<const TokenIndex::Tokens> TokenIndex::At(int32_t state, Limits limits) {
  const absl::MutexLock lock(&mutex_);
  int64_t work = 0;
  return Keep({state, limits}, &work);
}

size_t TokenIndex::num_bytes() {
  const absl::MutexLock lock(&mutex_);
  return num_bytes_;
}

int64_t TokenIndex::Prepare(int64_t work) {
  const absl::MutexLock lock(&mutex_);
  const Limits limits = {.most = counted_ ? MaxUnits() : 0, .least = 0};
  for (int32_t state = 0; state < dfa_.num_states() && work > 0; ++state) {
    Keep({state, limits}, &work);
  }
  return work;
}

const std::shared_ptr<const TokenIndex::Tokens>& TokenIndex::Keep(const Key& key, int64_t* work) {
  if (const auto found = found_.find(key); found != found_.end()) {
    return found->second;
  }
  if (num_bytes_ > kMaxBytes) {
    found_.clear();
    num_bytes_ = 0;
  }
  std::shared_ptr<const Tokens> tokens = Find(key.state, key.limits, work);
  num_bytes_ += tokens->num_bytes() + sizeof(Key);
  return found_.emplace(key, std::move(tokens)).first->second;
}

std::shared_ptr<const TokenIndex::Tokens> TokenIndex::Find(int32_t state,
                                                           Limits limits,
                                                           int64_t* work) const {
  // Of the text up to a node: where the automaton is, and how many units have begun.
  struct Place {
    int32_t state, units;
  };

  thread_local std::vector<Place> places;
  places.resize(static_cast<size_t>(vocabulary_->max_token_bytes()) + 1);
  places[0] = {state, 0};
  auto tokens = std::make_shared<Tokens>();
  const std::span<const Vocabulary::Node> nodes = vocabulary_->nodes();
  int64_t num_visited = 1;
  for (size_t at = 1; at < nodes.size(); ++num_visited) {
    const Vocabulary::Node& node = nodes[at];
    const Place before = places[node.depth - 1U];
    Place& place = places[node.depth];
    place.state = dfa_.Next(before.state, node.byte);
    place.units = before.units;
    bool is_over = place.state == Dfa::kDead;
    if (counted_ && before.state == 0 && !is_over) {
      if (node.byte == '"') {
        is_over = place.units < limits.least;
      } else {
        is_over = ++place.units > limits.most;
      }
    }
    if (is_over) {
      at = static_cast<size_t>(node.end);
      continue;
    }
    if (node.tokens >= 0) {
      const auto ids = vocabulary_->ids(node.tokens);
      tokens->sparse.insert(tokens->sparse.end(), ids.begin(), ids.end());
    }
    if (dfa_.accepts(place.state) && node.end > static_cast<int32_t>(at) + 1) {
      tokens->crossings.push_back(static_cast<int32_t>(at));
    }
    at = dfa_.goes_on(place.state) ? at + 1 : static_cast<size_t>(node.end);
  }
  *work -= num_visited;
  if (tokens->sparse.size() > 2 * vocabulary_->num_words()) {
    tokens->dense.resize(vocabulary_->num_words());
    std::vector<int32_t> ids;
    std::swap(ids, tokens->sparse);
    for (const int32_t id : ids) {
      tokens->dense[static_cast<size_t>(id) / 64] |= uint64_t{1} << (static_cast<size_t>(id) % 64);
    }
  }
  tokens->sparse.shrink_to_fit();
  return tokens;
}

}  // namespace ringserve
