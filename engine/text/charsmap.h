// A `precompiled_charsmap`: the rewriting rules that SentencePiece puts into its models, a trie of
// texts and what replaces them. Applied as Hugging Face's normalizer Precompiled does, which is not
// quite as SentencePiece does it: grapheme by grapheme, and the shortest text that one begins with
// counts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/status.h"

namespace ringserve {

class Charsmap {
 public:
  // `bytes`: u32 size of the trie in bytes, the trie (a double array of u32, as Darts-clone has
  // it), then the replacements, UTF-8 and each ended by a zero byte. Little endian.
  static absl::StatusOr<Charsmap> Parse(std::string_view bytes);

  // One step of the rewriting: `replacement` stands for the characters from `begin` to `end`.
  struct Edit {
    size_t begin, end;
    std::string_view replacement;
    bool replaced;  // false: one character that stays
  };

  // Calls edit(Edit) from left to right for all of `text` (valid UTF-8).
  template <typename Visit>
  void ForEachEdit(std::string_view text, Visit visit) const;

 private:
  // What replaces the shortest text in the trie that `text` begins with. False if there is none.
  bool Find(std::string_view text, std::string_view* replacement) const;
  static size_t NextGrapheme(std::string_view text, size_t begin);
  static size_t NextCharacter(std::string_view text, size_t begin);

  std::vector<uint32_t> units_;
  std::string replacements_;
};

template <typename Visit>
void Charsmap::ForEachEdit(std::string_view text, Visit visit) const {
  constexpr size_t kMaxReplacedBytes = 5;  // of a grapheme as a whole
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = NextGrapheme(text, begin);
    Edit edit{begin, end, {}, true};
    if (end - begin <= kMaxReplacedBytes &&
        Find(text.substr(begin, end - begin), &edit.replacement)) {
      visit(edit);
      begin = end;
      continue;
    }
    while (begin < end) {
      const size_t next = NextCharacter(text, begin);
      edit = {begin, next, text.substr(begin, next - begin), false};
      edit.replaced = Find(text.substr(begin, next - begin), &edit.replacement);
      visit(edit);
      begin = next;
    }
  }
}

}  // namespace ringserve
