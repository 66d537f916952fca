// Byte pair encoding of one word. The result is Hugging Face's: of all neighbours that have a
// merge, the pair of the lowest rank merges first, the leftmost of equal ones.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text/char_table.h"
#include "engine/text/text_model.h"

namespace ringserve {

struct BpeToken {
  std::string text;  // bytes, or UTF-8 if by_character
  int32_t id;
};

struct BpeMerge {
  int32_t left, right, result;  // token ids; the rank is the place in the list
};

struct BpeModel {
  std::vector<BpeToken> tokens;  // no two alike
  std::vector<BpeMerge> merges;  // of equal pairs the last counts
  bool ignore_merges = false;    // a word that is a token is that token
  int32_t unk_id = -1;           // for what has no token; -1: it vanishes
  bool fuse_unk = false;         // neighbouring unknown bytes or characters make one unk

  // Whether merging begins with characters, not with bytes. The rest is only for this.
  bool by_character = false;
  std::string continuing_prefix;       // before every character but the first of a word
  std::string end_suffix;              // after the last
  std::vector<int32_t> byte_ids = {};  // 256 tokens for the bytes of unknown characters (-1: none),
                                       // or empty
};

class Bpe final : public TextModel {
 public:
  explicit Bpe(BpeModel model);

  using Scratch = ModelScratch;

  // O(n log n).
  void Encode(std::string_view word,
              ModelScratch* scratch,
              std::vector<int32_t>* out) const override;

 private:
  struct Pair {
    uint64_t key = 0;  // left << 32 | right
    int32_t rank = -1;
    int32_t result = 0;
  };

  struct WholeWord {
    uint32_t hash = 0;
    int32_t token = -1;  // index into model_.tokens; -1: empty
  };

  // Up to this many symbols a scan for the lowest rank is faster than a heap.
  static constexpr size_t kShortWord = 32;

  // The tokens of the characters at a kind of place in a word.
  using Symbols = std::unique_ptr<const CharTable<int32_t>>;

  void AddMerges();
  void AddWholeWords();
  void AddSymbolTables();
  void AddBorders();
  // The ids that merging may begin with.
  std::vector<int32_t> SymbolIds() const;
  Symbols MakeSymbols(std::string_view prefix, std::string_view suffix) const;
  // Null if there is none.
  const Pair* FindMerge(int32_t left, int32_t right) const;
  // The id of the token that `word` is as a whole, or -1.
  int32_t FindWord(std::string_view word) const;
  bool MayJoin(int32_t left, int32_t right) const;
  void AddByteSymbols(std::string_view word, std::vector<int32_t>* ids) const;
  void AddCharacterSymbols(std::string_view word, std::vector<int32_t>* ids) const;
  bool AddFallback(std::string_view text, std::vector<int32_t>* ids) const;
  // Both merge so many ids and return how many are left.
  size_t MergeShort(int32_t* ids, size_t count) const;
  size_t MergeLong(int32_t* ids, size_t num_ids, ModelScratch* scratch) const;
  void EncodeByMerging(std::string_view word,
                       ModelScratch* scratch,
                       std::vector<int32_t>* out) const;

  BpeModel model_;
  std::vector<int32_t> id_of_byte_;  // -1: no token
  Symbols symbols_[2][2];            // [not the first of the word][the last]; shared if equal
  std::vector<Pair> pairs_;          // open addressing; the size is a power of two
  std::vector<WholeWord> words_;     // likewise: tokens that are the encoding of their own text
  size_t max_word_bytes_ = 0;        // of those
  std::vector<uint64_t> joints_;     // likewise; see AddBorders. Empty: any two may join
};

}  // namespace ringserve
