#include "engine/text/bpe.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "tests/support/catch.h"

namespace ringserve {
namespace {

// The definition: merge the pair of the lowest rank, the leftmost of equal ones, until none is
// left.
std::vector<int32_t> EncodeByDefinition(const BpeModel& model, const std::string& word) {
  std::vector<int32_t> ids;
  for (const char byte : word) {
    for (const BpeToken& token : model.tokens) {
      if (token.text == std::string(1, byte)) {
        ids.push_back(token.id);
      }
    }
  }
  while (true) {
    size_t best_rank = model.merges.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = model.merges.size(); rank-- > 0;) {
        if (model.merges[rank].left == ids[i] && model.merges[rank].right == ids[i + 1]) {
          if (rank < best_rank) {
            best_rank = rank;
            best = i;
          }
          break;
        }
      }
    }
    if (best_rank == model.merges.size()) {
      return ids;
    }
    ids[best] = model.merges[best_rank].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

// Random merges over few letters, in any order and with repeats, so that most tokens can be made in
// several ways and some in none.
BpeModel RandomModel(std::mt19937& random, size_t num_merges) {
  BpeModel model;
  for (const char letter : std::string("abc")) {
    model.tokens.push_back({std::string(1, letter), static_cast<int32_t>(model.tokens.size())});
  }
  for (size_t i = 0; i < num_merges; ++i) {
    const BpeToken left = model.tokens[random() % model.tokens.size()];
    const BpeToken right = model.tokens[random() % model.tokens.size()];
    const std::string bytes = left.text + right.text;
    auto found = std::find_if(model.tokens.begin(), model.tokens.end(), [&](const BpeToken& token) {
      return token.text == bytes;
    });
    if (found == model.tokens.end()) {
      found = model.tokens.insert(found, {bytes, static_cast<int32_t>(model.tokens.size())});
    }
    model.merges.push_back({left.id, right.id, found->id});
  }
  std::shuffle(model.merges.begin(), model.merges.end(), random);
  return model;
}

TEST_CASE("Bpe merges by the definition, short words and long ones") {
  std::mt19937 random(3);
  size_t num_merged = 0;
  for (int round = 0; round < 400; ++round) {
    const BpeModel model = RandomModel(random, 1 + random() % 40);
    const Bpe bpe(model);
    Bpe::Scratch scratch;
    for (int i = 0; i < 10; ++i) {
      std::string word;
      for (size_t length = random() % (i == 0 ? 200 : 40); word.size() < length;) {
        word.push_back(static_cast<char>('a' + random() % 3));
      }
      std::vector<int32_t> ids = {-7};  // what is there stays
      bpe.Encode(word, &scratch, &ids);
      CHECK(ids.front() == -7);
      ids.erase(ids.begin());
      CHECK(ids == EncodeByDefinition(model, word));
      num_merged += word.size() - ids.size();
    }
  }
  CHECK(num_merged > 10000);
}

TEST_CASE("a word that is a token is that token if merges are ignored") {
  BpeModel model;
  model.tokens = {{"a", 0}, {"b", 1}, {"ab", 2}, {"aba", 3}};
  model.merges = {{0, 1, 2}};
  Bpe::Scratch scratch;
  std::vector<int32_t> ids;
  Bpe(model).Encode("aba", &scratch, &ids);
  CHECK(ids == std::vector<int32_t>{2, 0});
  model.ignore_merges = true;
  ids.clear();
  Bpe(model).Encode("aba", &scratch, &ids);
  CHECK(ids == std::vector<int32_t>{3});
}

TEST_CASE("bytes without a token vanish or become unk") {
  BpeModel model;
  model.tokens = {{"a", 0}, {"aa", 1}};
  model.merges = {{0, 0, 1}};
  Bpe::Scratch scratch;
  const auto encode = [&](const std::string& word) {
    std::vector<int32_t> ids;
    Bpe(model).Encode(word, &scratch, &ids);
    return ids;
  };
  CHECK(encode("axxa") == std::vector<int32_t>{1});
  CHECK(encode("").empty());
  model.unk_id = 9;
  CHECK(encode("axxa") == std::vector<int32_t>{0, 9, 9, 0});
  model.fuse_unk = true;
  CHECK(encode("axxaxx") == std::vector<int32_t>{0, 9, 0, 9});
}

}  // namespace
}  // namespace ringserve
