// A text on its way through the normalizers.
//
// Metaspace may put its character before what stands at the start of the original text, and only
// there; so it must be known what of a normalized text stems from that start. The library keeps
// offsets for every byte. Only those that are 0 matter here, and they belong to the first few
// bytes: the head.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "engine/text/utf8.h"

namespace ringserve {

struct NormalizedText {
  std::string text;
  bool first = false;  // it begins where the original text begins
  size_t head = 0;     // so many bytes at its start have the original offset 0
};

// How long a normalizer may make a text. NFKC makes a character 11 times as long at most; beyond
// this only a file that means harm goes.
inline size_t MaxNormalizedBytes(size_t original_bytes) {
  return (size_t{1} << 20) + 64 * original_bytes;
}

// The head of a text that begins where the original begins and has not been changed.
inline size_t FirstHead(std::string_view text) {
  return text.empty() ? 0 : Utf8Length(text[0]);
}

// Follows one rewriting of a text by the library's rules: each new character takes the offset of
// the character that it replaces, or, inserted, of the byte before.
class HeadTracker {
 public:
  // `removed_bytes` at the start of `before` are dropped before anything is added.
  HeadTracker(const NormalizedText& before, size_t removed_bytes)
      : text_(before.text),
        old_head_(before.head),
        index_(removed_bytes),
        tracking_(before.first) {}

  // A character of `num_bytes`. change > 0: inserted; else it replaces the next character of the
  // old text, and -change characters after that are dropped.
  void Add(size_t num_bytes, int change) {
    if (!tracking_) {
      return;
    }
    const bool in_head = change > 0 ? index_ == 0 || index_ - 1 < old_head_ : index_ < old_head_;
    tracking_ = in_head;
    head_ += in_head ? num_bytes : 0;
    for (; change <= 0 && index_ < text_.size(); ++change) {
      index_ += Utf8Length(text_[index_]);
    }
  }

  bool tracking() const { return tracking_; }

  size_t head() const { return head_; }

 private:
  std::string_view text_;
  size_t old_head_;
  size_t index_;
  size_t head_ = 0;
  bool tracking_;
};

}  // namespace ringserve
