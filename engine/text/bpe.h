// Byte-level byte pair encoding of one word. The result is Hugging Face's: of all neighbours that
// have a merge, the pair of the lowest rank merges first, the leftmost of equal ones.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ringserve {

struct BpeToken {
  std::string bytes;
  int32_t id;
};

struct BpeMerge {
  int32_t left, right, result;  // token ids; the rank is the place in the list
};

struct BpeModel {
  std::vector<BpeToken> tokens;  // those that consist of bytes; no two alike
  std::vector<BpeMerge> merges;  // of equal pairs the last counts
  bool ignore_merges = false;    // a word that is a token is that token
  int32_t unk_id = -1;           // for bytes that have no token; -1: they vanish
  bool fuse_unk = false;         // neighbouring unknown bytes make one unk
};

class Bpe {
 public:
  explicit Bpe(BpeModel model);

  struct Scratch {
    std::vector<int32_t> ids;
    std::vector<int32_t> previous, next;            // of a symbol, by place in the word
    std::vector<std::pair<int32_t, int32_t>> heap;  // (rank, place), least first
  };

  // Appends the tokens of `word`. O(n log n). Requires word.size() <= 2^30.
  void Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* out) const;

 private:
  struct Pair {
    uint64_t key = 0;  // left << 32 | right
    int32_t rank = -1;
    int32_t result = 0;
  };

  struct Word {
    uint32_t hash = 0;
    int32_t token = -1;  // index into model_.tokens; -1: empty
  };

  void AddMerges();
  void AddWholeWords();
  // Null if there is none.
  const Pair* FindMerge(int32_t left, int32_t right) const;
  // The id of the token that `word` is as a whole, or -1.
  int32_t FindWord(std::string_view word) const;
  void AddSymbols(std::string_view word, std::vector<int32_t>* ids) const;
  void MergeShort(std::vector<int32_t>* ids) const;
  void MergeLong(Scratch* scratch) const;
  void EncodeByMerging(std::string_view word, Scratch* scratch, std::vector<int32_t>* out) const;

  BpeModel model_;
  std::vector<int32_t> id_of_byte_;  // -1: no token
  std::vector<Pair> pairs_;          // open addressing; the size is a power of two
  std::vector<Word> words_;          // likewise: tokens that are the encoding of their own bytes
};

}  // namespace ringserve
